"""Rank 0's account of the run: events for people and reports, written as they happen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.distributed as dist

from motley.chips.driver_names import quoted_peak
from motley.events import EventLog
from motley.model.counts import model_counts
from motley.plan.plan import Plan
from motley.plan.simulate import simulate
from motley.plan.timing.cost import layer_cost
from motley.train.engine import Engine, StepResult
from motley.train.folder import RunFolder

TIMELINE_STEPS = (3, 10)
TIMELINE_EVERY = 50
"""Timelines are kept of these steps and of every fiftieth."""

GatheredSpans = list[dict[str, Any]]


class Journal:
    """Writes `events.jsonl`; made by `Journal.open` on rank 0."""

    def __init__(self, folder: RunFolder, plan: Plan, log: EventLog) -> None:
        self._folder = folder
        self._plan = plan
        self._log = log
        self._recipe = folder.recipe()
        self._cluster = folder.cluster()

    @classmethod
    def open(cls, folder: RunFolder, plan: Plan) -> Journal:
        return cls(folder, plan, EventLog.open(folder.events))

    def begin(self, engine: Engine, first_step: int, num_rounds: int | None = None) -> None:
        """The run starts, or goes on after `first_step` updates; `num_rounds` are those of the
        federation that it trains in."""
        counts = model_counts(self._recipe.model, self._recipe.batch.sequence_length)
        self._log.write(
            "run_started",
            run=self._folder.path.name,
            recipe=self._recipe.to_dict(),
            resumed_from=first_step or None,
            num_rounds=num_rounds,
            world_size=self._plan.world_size,
            parameters=counts.parameters,
            flops_per_token=counts.flops_per_token,
            chips=[self._chip_facts(rank) for rank in range(self._plan.world_size)],
            predicted=self._prediction(),
        )

    def _chip_facts(self, rank: int) -> dict[str, Any]:
        place = list(self._plan.placements())[rank]
        chip = self._cluster.chip(place.stage.chip)
        return {
            "name": chip.name,
            "kind": chip.kind,
            "emulated": chip.emulated,
            "source": chip.source,
            "rank": rank,
            "replica": place.replica_index,
            "position": place.position,
            "layers": [place.stage.first_layer, place.stage.last_layer],
            "precision": place.stage.precision,
            "device": chip.device,
            "peak_flops_per_s": chip.flops_per_s[chip.precision],
            "quoted_peak_flops_per_s": quoted_peak(chip),
            "memory_available_bytes": chip.memory_bytes,
        }

    def _prediction(self) -> dict[str, Any]:
        simulation = simulate(self._plan, self._recipe, self._cluster)
        stages = [place.stage for place in self._plan.placements()]
        return {
            "step_s": simulation.step_s,
            "tokens_per_s": simulation.tokens_per_s,
            "busy_share": {
                stage.chip: share
                for stage, share in zip(stages, simulation.busy_share, strict=True)
            },
            "memory_bytes": {stage.chip: stage.memory_bytes for stage in stages},
            "spans": [
                {
                    "chip": stages[span.rank].chip,
                    "kind": span.kind,
                    "micro_batch": span.micro_batch,
                    "start_s": span.start_s,
                    "end_s": span.end_s,
                }
                for span in simulation.spans
            ],
        }

    @staticmethod
    def wants_timeline(step: int) -> bool:
        """Whether the spans of this step are kept."""
        return step in TIMELINE_STEPS or step % TIMELINE_EVERY == 0

    @staticmethod
    def gather_spans(engine: Engine, result: StepResult) -> GatheredSpans:
        """All ranks' spans, at rank 0; every rank must call this."""
        chip = engine.placement.stage.chip
        mine = [
            {"chip": chip, "kind": kind, "micro_batch": index, "start_s": start, "end_s": end}
            for kind, index, start, end in result.spans
        ]
        gathered: list[GatheredSpans] | None = None
        if dist.get_rank() == 0:
            gathered = [[] for _ in range(dist.get_world_size())]
        dist.gather_object(mine, gathered, group=engine.control)
        return [span for spans in gathered or [] for span in spans]

    def step(
        self, engine: Engine, step: int, result: StepResult, spans: GatheredSpans | None
    ) -> None:
        self._log.write(
            "step",
            step=step,
            loss=result.loss,
            tokens=result.num_targets,
            step_s=result.step_s,
            tokens_per_s=result.num_targets / result.step_s,
            learning_rate=result.learning_rate,
            gradient_norm=result.gradient_norm,
            chips=[self._chip_step(rank, result) for rank in range(self._plan.world_size)],
        )
        if spans is not None:
            self._log.write("timeline", step=step, spans=spans)

    def _chip_step(self, rank: int, result: StepResult) -> dict[str, Any]:
        place, report = list(self._plan.placements())[rank], result.reports[rank]
        length = self._recipe.batch.sequence_length
        flops = 0.0
        for layer in place.stage.layers:
            cost = layer_cost(
                self._recipe.model, layer, length, place.stage.precision, recompute=False
            )
            flops += cost.forward_flops + cost.backward_flops
        return {
            "name": place.stage.chip,
            "compute_s": report.compute_s,
            "wait_s": report.wait_s,
            "communication_s": report.communication_s,
            "optimizer_s": report.optimizer_s,
            "tokens": report.samples * length,
            "flops": flops * report.samples,
            "memory_bytes": report.memory_bytes,
        }

    def validation(self, step: int, loss: float, bits_per_byte: float, seconds: float) -> None:
        self._log.write(
            "validation", step=step, loss=loss, bits_per_byte=bits_per_byte, seconds=seconds
        )

    def checkpoint(self, step: int, path: Path, seconds: float) -> None:
        num_bytes = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
        relative = path.relative_to(self._folder.path)
        self._log.write(
            "checkpoint", step=step, path=str(relative), seconds=seconds, bytes=num_bytes
        )

    def checkpoint_failed(self, step: int, reason: str) -> None:
        self._log.write("checkpoint_failed", step=step, reason=reason)

    def message(self, text: str) -> None:
        self._log.write("message", text=text)

    def record(self, event: str, **fields: Any) -> None:
        """An event of what the training is part of."""
        self._log.write(event, **fields)

    def end(self, step: int, reason: str, seconds: float) -> None:
        self._log.write("run_finished", step=step, reason=reason, seconds=seconds)
