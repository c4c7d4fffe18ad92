"""Events of runs that could have been: what the report's tests and pictures are made from.

The first run is an 8:4:2:1:1 mix; the two slowest chips hold one replica as a pipeline of two
stages. Spans come from a small 1F1B simulation, so waiting and sums are those of a real schedule.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Event = dict[str, Any]
Span = dict[str, Any]

START = 1_790_000_000.0
LAYERS = 10
PARAMETERS = 29_900_000
FLOPS_PER_TOKEN = 6 * PARAMETERS
SEQUENCE = 512
GIB = 2**30


@dataclass(frozen=True)
class Place:
    """A chip of the sample and its part of the plan."""

    name: str
    kind: str
    rate: float
    """Relative speed."""
    replica: int
    position: int = 0
    layers: tuple[int, int] = (0, LAYERS)
    samples: int = 4
    micro_batches: int = 4
    source: str = "measured"
    emulated: bool = False
    memory: float = 16 * GIB
    efficiency: float = 0.62
    """Share of the peak that the chip reaches while it computes."""
    bias: float = 1.0
    """How much longer its work takes than the plan believes."""
    full: float = 0.66
    """Share of the memory that is used."""


MIX = (
    Place("gpu-a", "rtx-4090", 8, 0, samples=32, memory=24 * GIB, bias=0.93, full=0.71),
    Place("gpu-b", "rtx-3060", 4, 1, samples=16, memory=12 * GIB, efficiency=0.71, full=0.83),
    Place("mac", "m2-pro", 2, 2, samples=8, source="quoted", bias=1.09, efficiency=0.48, full=0.35),
    Place("old-c", "gtx-1080", 1, 3, 0, (0, 5), samples=8, emulated=True, memory=8 * GIB,
          efficiency=0.97, full=0.58),
    Place("old-d", "gtx-1080", 1, 3, 1, (5, 10), samples=8, emulated=True, memory=8 * GIB,
          efficiency=0.97, full=0.52),
)  # fmt: skip


@dataclass
class Sample:
    """A generator of one run's events; `events` gives them all."""

    places: tuple[Place, ...] = MIX
    steps: int = 40
    planned_steps: int | None = None
    name: str = "mix-30m"
    validate_every: int = 10
    resumed_from: int | None = None
    seed: int = 1
    finish: str | None = "done"
    start: float = START
    seconds_per_sample: float = 0.024
    losses: dict[int, float] = field(default_factory=dict)

    def events(self) -> list[Event]:
        draw = random.Random(self.seed)
        made = [self.started()]
        now = self.start + 4.0
        for step in range((self.resumed_from or 0) + 1, self.steps + 1):
            noise = 2.1 if len(made) == 1 else 1.06 + 0.05 * draw.random()
            spans = self.spans(noise, draw)
            step_s = max(span["end_s"] for span in spans)
            now += step_s
            made.append(self.step(step, spans, step_s, now, draw))
            made.append({"event": "timeline", "time": now, "step": step, "spans": spans})
            if step % self.validate_every == 0:
                now += 0.4
                loss = self.loss(step) + 0.05
                made.append(
                    {"event": "validation", "time": now, "step": step, "loss": loss,
                     "bits_per_byte": loss / math.log(2) / 3.6, "seconds": 0.4}
                )  # fmt: skip
            if step % 20 == 0:
                made.append(
                    {"event": "checkpoint", "time": now, "step": step, "seconds": 0.21,
                     "path": f"checkpoints/step-{step}", "bytes": 12 * PARAMETERS}
                )  # fmt: skip
        if self.finish:
            made.append(
                {"event": "run_finished", "time": now + 0.1, "step": self.steps,
                 "reason": self.finish, "seconds": now + 0.1 - self.start}
            )  # fmt: skip
        return made

    def started(self) -> Event:
        spans = self.spans(1.0, random.Random(0))
        step_s = max(span["end_s"] for span in spans)
        return {
            "event": "run_started",
            "time": self.start,
            "run": self.name,
            "recipe": recipe(self.name, self.planned_steps or self.steps),
            "resumed_from": self.resumed_from,
            "world_size": len(self.places),
            "parameters": PARAMETERS,
            "flops_per_token": FLOPS_PER_TOKEN,
            "chips": [self.chip(rank, place) for rank, place in enumerate(self.places)],
            "predicted": {
                "step_s": step_s,
                "tokens_per_s": self.tokens / step_s,
                "busy_share": {
                    place.name: busy(spans, place.name, "forward", "backward") / step_s
                    for place in self.places
                },
                "memory_bytes": {
                    place.name: int((place.full + 0.05) * place.memory) for place in self.places
                },
                "spans": spans,
            },
        }

    @property
    def tokens(self) -> int:
        return SEQUENCE * sum(place.samples for place in self.places if place.position == 0)

    def chip(self, rank: int, place: Place) -> dict[str, Any]:
        share = (place.layers[1] - place.layers[0]) / LAYERS
        flops = FLOPS_PER_TOKEN * SEQUENCE * share
        return {
            "name": place.name, "kind": place.kind, "emulated": place.emulated,
            "source": "emulated" if place.emulated else place.source, "rank": rank,
            "replica": place.replica, "position": place.position, "layers": list(place.layers),
            "precision": "bf16" if place.rate > 2 else "fp32", "device": f"cuda:{rank}",
            "peak_flops_per_s": flops / (self.sample_s(place)) / place.efficiency,
            "memory_available_bytes": place.memory,
        }  # fmt: skip

    def sample_s(self, place: Place) -> float:
        share = (place.layers[1] - place.layers[0]) / LAYERS
        return self.seconds_per_sample * 8 * share / place.rate

    def step(
        self, step: int, spans: list[Span], step_s: float, now: float, draw: random.Random
    ) -> Event:
        chips = []
        for place in self.places:
            share = (place.layers[1] - place.layers[0]) / LAYERS
            tokens = place.samples * SEQUENCE
            chips.append({
                "name": place.name, "tokens": tokens,
                "compute_s": busy(spans, place.name, "forward", "backward"),
                "wait_s": busy(spans, place.name, "wait"),
                "communication_s": busy(spans, place.name, "sync"),
                "optimizer_s": busy(spans, place.name, "optimizer"),
                "flops": tokens * FLOPS_PER_TOKEN * share,
                "memory_bytes": int(place.memory * (place.full + 0.02 * draw.random())),
            })  # fmt: skip
        return {
            "event": "step", "time": now, "step": step, "tokens": self.tokens, "step_s": step_s,
            "loss": self.losses.get(step, self.loss(step) + 0.06 * draw.gauss(0, 1)),
            "tokens_per_s": self.tokens / step_s, "learning_rate": 1e-3,
            "gradient_norm": 0.9 + 0.2 * draw.random(), "chips": chips,
        }  # fmt: skip

    def loss(self, step: int) -> float:
        return 2.9 + 6.1 * math.exp(-step / 14) + 2.4 / math.sqrt(step)

    def spans(self, noise: float, draw: random.Random) -> list[Span]:
        """One step: every replica's schedule, then the common synchronisation and update."""
        spans: list[Span] = []
        for replica in sorted({place.replica for place in self.places}):
            stages = [place for place in self.places if place.replica == replica]
            spans += self.one_forward_one_backward(stages, noise, draw)
        ready = {place.name: end(spans, place.name) for place in self.places}
        sync = max(ready.values()) + 0.03 * noise
        for place in self.places:
            name = place.name
            if sync - 0.03 * noise > ready[name]:
                spans.append(span(name, "wait", None, ready[name], sync - 0.03 * noise))
            if len(self.places) > 1:
                spans.append(span(name, "sync", None, sync - 0.03 * noise, sync))
            spans.append(span(name, "optimizer", None, sync, sync + 0.012 + 0.02 / place.rate))
        return spans

    def one_forward_one_backward(
        self, stages: list[Place], noise: float, draw: random.Random
    ) -> list[Span]:
        count, depth = stages[0].micro_batches, len(stages)
        queues = [schedule(count, depth, position) for position in range(depth)]
        clock = [0.0] * depth
        ended: dict[tuple[int, str, int], float] = {}
        spans: list[Span] = []
        while any(queues):
            for position, queue in enumerate(queues):
                if not queue:
                    continue
                kind, index = queue[0]
                source = position - 1 if kind == "forward" else position + 1
                needs = (source, kind, index)
                if 0 <= source < depth and needs not in ended:
                    continue
                queue.pop(0)
                begin = max(clock[position], ended.get(needs, 0.0))
                place = stages[position]
                if begin > clock[position]:
                    spans.append(span(place.name, "wait", None, clock[position], begin))
                whole = self.sample_s(place) * place.samples / count * noise
                took = whole * (1 / 3 if kind == "forward" else 2 / 3) * (1 + 0.03 * draw.random())
                took *= place.bias if noise != 1.0 else 1.0
                spans.append(span(place.name, kind, index, begin, begin + took))
                clock[position] = ended[position, kind, index] = begin + took
        return spans


def schedule(count: int, depth: int, position: int) -> list[tuple[str, int]]:
    """The 1F1B order of one stage."""
    ahead = min(count, depth - position)
    order = [("forward", index) for index in range(ahead)]
    for index in range(count):
        order.append(("backward", index))
        if index + ahead < count:
            order.append(("forward", index + ahead))
    return order


def span(chip: str, kind: str, micro_batch: int | None, start_s: float, end_s: float) -> Span:
    return {"chip": chip, "kind": kind, "micro_batch": micro_batch,
            "start_s": start_s, "end_s": end_s}  # fmt: skip


def busy(spans: list[Span], chip: str, *kinds: str) -> float:
    return sum(
        float(item["end_s"] - item["start_s"])
        for item in spans
        if item["chip"] == chip and item["kind"] in kinds
    )


def end(spans: list[Span], chip: str) -> float:
    return max((float(item["end_s"]) for item in spans if item["chip"] == chip), default=0.0)


def recipe(name: str, steps: int) -> dict[str, Any]:
    return {
        "name": name, "seed": 0,
        "model": {"layers": 8, "width": 512, "heads": 8, "mlp_width": 2048, "context": 512,
                  "vocab_size": 4096, "positions": "rotary", "norm": "rmsnorm",
                  "activation": "swiglu", "bias": False, "rope_scaling": None},
        "data": {"corpus": ["python-stdlib"], "tokenizer": None, "vocab_size": 4096},
        "batch": {"sequence_length": SEQUENCE, "global_batch": 64},
        "optimizer": {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.1},
        "schedule": {"steps": steps, "warmup_steps": 20, "decay": "cosine", "final_share": 0.1},
        "validation": {"every_steps": 10, "max_samples": 64},
        "checkpoint": {"every_steps": 20, "keep": 2},
    }  # fmt: skip


def sixteen() -> tuple[Place, ...]:
    """Sixteen chips: eight replicas, each a pipeline of two stages."""
    return tuple(
        Place(f"node{replica // 4}-gpu{2 * (replica % 4) + position}", "h100-sxm", 8, replica,
              position, ((0, 5), (5, 10))[position], samples=16, micro_batches=8,
              memory=80 * GIB)
        for replica in range(8)
        for position in range(2)
    )  # fmt: skip


def resumed() -> list[Event]:
    """A run that lost a chip at step 27 and went on from step 20 on the four others."""
    first = Sample(steps=27, planned_steps=40, finish=None).events()
    lost = first[-1]["time"] + 2.0
    first += [
        {"event": "chip_lost", "time": lost, "chip": "mac", "rank": 2, "step": 27,
         "reason": "the process was killed (signal 9)"},
        {"event": "message", "time": lost + 1, "text": "planned again for the chips that are left"},
        {"event": "checkpoint_failed", "time": lost + 2, "step": 27, "reason": "disk full"},
    ]  # fmt: skip
    left = tuple(place for place in MIX if place.name != "mac")
    return first + Sample(left, steps=40, resumed_from=20, seed=2, start=lost + 9).events()


def write_run(folder: Path, events: list[Event]) -> Path:
    """A run folder with these events."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(event) + "\n" for event in events)
    (folder / "events.jsonl").write_text(lines, encoding="utf-8")
    return folder
