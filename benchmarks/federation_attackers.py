"""One of five parties attacks: what the defences make of it, and what it costs the model.

    python benchmarks/federation_attackers.py --json
    python benchmarks/federation_attackers.py --size XS --steps 300 --seed 1
    python benchmarks/federation_attackers.py --no-gate     # what a charter has that names nothing

A job is a size, a length, a seed, and whether members compare held-out losses (`loss_gate`); its
rows are kept, and the command goes on where it was. The defences' constants were chosen by the
rules in `docs/protocol.md`, not by these runs.

The parties train in one process with the product's codecs, defences and merge; each round is judged
as a reviewer judges it, and a party with three strikes is suspended. Forged manifests, replayed and
changed objects are the log's matter: `tests/unit/test_federation_fuzz.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common import origin, say
from federated_training import Federation, Job, Rounds, build_recipe, optimizer_of
from motley.federation.charter.terms import DefenceConfig, OuterConfig
from motley.federation.codec import CodecConfig
from motley.federation.codec.payload import Payload
from motley.federation.state.defences import Review, judge
from motley.federation.state.gate import largest_rise, measure_rises

RESULTS = Path(__file__).parent / "results" / "federation_attackers.json"
NUM_PARTIES = 5
ATTACKER = NUM_PARTIES - 1
STRIKES = 3
DEFENCES = {"gate": DefenceConfig(loss_gate=2.0), "no gate": DefenceConfig()}
NO_GATE = ", no gate"
"""At the end of a job's name."""
GATE_SAMPLES = range(32)

CODECS = {
    "topk": Rounds(
        local_steps=10,
        codec=CodecConfig(kind="topk", density=1 / 32),
        outer=OuterConfig(kind="average", learning_rate=1.0),
    ),
    "int8": Rounds(
        local_steps=10,
        codec=CodecConfig(kind="int8"),
        outer=OuterConfig(kind="nesterov", learning_rate=0.7),
    ),
}
Attack = Callable[["Watch", int, list[Payload]], Payload]


@dataclass
class Watch:
    """A federation's reviewer: judges each round, keeps strikes, and remembers what it saw."""

    federation: Federation
    attack: Attack | None
    defences: DefenceConfig
    strikes: list[int] = field(default_factory=lambda: [0] * NUM_PARTIES)
    reasons: dict[str, int] = field(default_factory=dict)
    """The attacker's, with the rounds they were given in."""
    false_rejections: int = 0
    least_agreement: float = 1.0
    least_score: float = math.inf
    largest_rise: float = -math.inf
    """Of honest updates, in parts of what the round allows."""
    history: list[list[Payload]] = field(default_factory=list)
    """The accepted payloads of each round; the last ones are compared with, as members do."""
    first: Payload | None = None
    """What the attacker sent in the first round."""

    def accept(
        self, federation: Federation, number: int, payloads: list[Payload]
    ) -> list[tuple[int, Payload]]:
        """The payloads of a round that count, each with the same weight."""
        sent = list(payloads)
        if self.attack is not None:
            sent[ATTACKER] = self.attack(self, number, payloads)
        active = [party for party in range(NUM_PARTIES) if self.strikes[party] < STRIKES]
        review = self._judge([sent[party] for party in active])
        accepted = []
        for place, party in enumerate(active):
            reason = review.reasons[place]
            self._note(party, reason, review, place)
            if not reason:
                accepted.append((1, sent[party]))
        self.history.append([payload for _, payload in accepted])
        self.first = self.first or sent[ATTACKER]
        return accepted

    def _judge(self, payloads: list[Payload]) -> Review:
        federation = self.federation
        shapes = {name: tuple(tensor.shape) for name, tensor in federation.shared.items()}
        return judge(
            payloads,
            codec=federation.codec,
            shapes=shapes,
            aggregate=federation.rounds.aggregate,
            defences=self.defences,
            earlier=self.history[-1] if self.history else (),
            gate=lambda chosen: measure_rises(
                federation.shared,
                chosen,
                codec=federation.codec,
                shapes=shapes,
                loss_of=self._loss_of,
                rate=federation.rounds.outer.learning_rate,
            ),
        )

    def _loss_of(self, replaced: Mapping[str, Tensor]) -> float:
        model, job = self.federation.reference, self.federation.job
        before = {name: tensor.clone() for name, tensor in model.state().items()}
        model.load_state({**before, **replaced})
        loss_sum, num_targets, _ = job.score(model, GATE_SAMPLES)
        model.load_state(before)
        return loss_sum / num_targets

    def _note(self, party: int, reason: str, review: Review, place: int) -> None:
        is_attacker = self.attack is not None and party == ATTACKER
        if reason:
            self.strikes[party] += 1
            if is_attacker:
                self.reasons[reason] = self.reasons.get(reason, 0) + 1
            else:
                self.false_rejections += 1
        if not is_attacker and reason in ("", "loss_gate", "noise"):
            self.least_agreement = min(self.least_agreement, review.agreements[place])
            self.least_score = min(self.least_score, review.scores[place])
        gate = self.defences.loss_gate
        if gate is not None and not is_attacker and reason in ("", "loss_gate"):
            measured = [rise for rise in review.rises if rise != 0.0]
            limit = largest_rise(measured, gate)
            self.largest_rise = max(self.largest_rise, review.rises[place] / max(limit, 1e-12))


def _decoded(watch: Watch, payload: Payload) -> dict[str, Tensor]:
    shared = watch.federation.shared
    shapes = {name: tuple(tensor.shape) for name, tensor in shared.items()}
    return watch.federation.codec.decode(payload, shapes)


def _scaled(factor: float) -> Attack:
    def attack(watch: Watch, number: int, payloads: list[Payload]) -> Payload:
        delta = _decoded(watch, payloads[ATTACKER])
        codec = watch.federation.codec
        return codec.encode({name: tensor * factor for name, tensor in delta.items()}, None)[0]

    return attack


def _not_a_number(watch: Watch, number: int, payloads: list[Payload]) -> Payload:
    """NaN in every scale, the only place of a payload where there can be one."""
    mine = dict(payloads[ATTACKER])
    name = "magnitudes" if "magnitudes" in mine else "steps"
    mine[name] = torch.full_like(mine[name], 0x7FC0)
    return mine


def _stale(watch: Watch, number: int, payloads: list[Payload]) -> Payload:
    """Its first update for ever, as if made from the newest state."""
    return watch.first or payloads[ATTACKER]


def _copied(watch: Watch, number: int, payloads: list[Payload]) -> Payload:
    return payloads[0]


def _random(watch: Watch, number: int, payloads: list[Payload]) -> Payload:
    """Noise of the norm that its honest update would have had."""
    delta = _decoded(watch, payloads[ATTACKER])
    generator = torch.Generator().manual_seed(number)
    noise = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in delta.items()}
    lengths = [
        math.sqrt(sum(float(t.double().square().sum()) for t in tensors.values()))
        for tensors in (delta, noise)
    ]
    codec, factor = watch.federation.codec, lengths[0] / lengths[1]
    return codec.encode({name: tensor * factor for name, tensor in noise.items()}, None)[0]


ATTACKS: dict[str, Attack | None] = {
    "none": None,
    "scaled x1000": _scaled(1000.0),
    "sign-flipped": _scaled(-1.0),
    "NaN": _not_a_number,
    "stale": _stale,
    "copied": _copied,
    "random": _random,
}


def measure(job: Job, codec: str, name: str, defences: DefenceConfig) -> dict[str, Any]:
    """One training under one attack."""
    federation = Federation(job, CODECS[codec], NUM_PARTIES)
    watch = Watch(federation, ATTACKS[name], defences)
    bits = federation.train(watch.accept)
    row = {
        "bits_per_byte": bits,
        "reasons": watch.reasons,
        "suspended": watch.strikes[ATTACKER] >= STRIKES,
        "false_rejections": watch.false_rejections,
        "least_honest_agreement": round(watch.least_agreement, 4),
        "least_honest_score": round(watch.least_score, 1),
        "largest_honest_rise_of_limit": _rounded(watch.largest_rise),
        "origin": origin(),
    }
    say(f"{codec:5} {name:14} {json.dumps({**row, 'origin': ''})}")
    return row


def _rounded(value: float) -> float | None:
    """None where nothing was measured, which JSON has no number for."""
    return round(value, 3) if math.isfinite(value) else None


def kept() -> dict[str, Any]:
    """What earlier calls have measured, by job."""
    if not RESULTS.exists():
        return {}
    jobs: dict[str, Any] = json.loads(RESULTS.read_text()).get("jobs", {})
    return jobs


def fill(job: Job, key: str, codecs: list[str], defences: str) -> None:
    """Measures what is missing of one job, row by row."""
    for codec in codecs:
        for name in ATTACKS:
            row = f"{codec}, {name}"
            if row in kept().get(key, {}):
                continue
            measured = measure(job, codec, name, DEFENCES[defences])
            jobs = kept()
            jobs.setdefault(key, {})[row] = measured
            RESULTS.write_text(json.dumps(summary(jobs), indent=1) + "\n")


def summary(jobs: dict[str, Any]) -> dict[str, Any]:
    """The figures over all jobs; a penalty is over the same codec's run without an attacker."""
    attacked: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for key, rows in jobs.items():
        for name, row in rows.items():
            codec, _, attack = name.partition(", ")
            clean = rows.get(f"{codec}, none")
            if attack != "none" and clean is not None:
                row["penalty"] = row["bits_per_byte"] / clean["bits_per_byte"] - 1
                attacked[not key.endswith(NO_GATE)].append(row)
    every = [row for rows in jobs.values() for row in rows.values()]
    return {
        **_worst(attacked[True], ""),
        **_worst(attacked[False], "_without_gate"),
        "false_rejections": sum(row["false_rejections"] for row in every),
        "parties": NUM_PARTIES,
        "defences": {name: dataclasses.asdict(each) for name, each in DEFENCES.items()},
        "jobs": jobs,
    }


def _worst(rows: list[dict[str, Any]], suffix: str) -> dict[str, Any]:
    """The attack that costs most, and whether all attackers were suspended; nothing without
    rows."""
    if not rows:
        return {}
    return {
        f"attack_penalty_max{suffix}": max(row["penalty"] for row in rows),
        f"culprits_named{suffix}": all(row["suspended"] for row in rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", default="XXS")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rate", type=float, default=1e-2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--codecs", nargs="*", default=list(CODECS), choices=list(CODECS))
    parser.add_argument("--no-gate", action="store_true", help="the charter's defaults alone")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    chosen = parser.parse_args()
    recipe = build_recipe(
        chosen.size,
        steps=chosen.steps,
        optimizer=optimizer_of("adamw", chosen.rate),
        samples=20,
        seed=chosen.seed,
    )
    job = Job(recipe, lambda _: None)
    key = f"{chosen.size}, {chosen.steps} steps, rate {chosen.rate:g}, seed {chosen.seed}"
    key += NO_GATE if chosen.no_gate else ""
    fill(job, key, chosen.codecs, "no gate" if chosen.no_gate else "gate")
    result = summary(kept())
    print(json.dumps(result) if chosen.json else json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
