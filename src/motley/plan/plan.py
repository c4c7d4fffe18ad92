"""The plan: how one recipe is split over one cluster, and what that is predicted to give.

A plan is data only; `search` makes it, `simulate` predicts it, the trainer executes it. Ranks are
numbered replica by replica, stage by stage.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from motley.errors import PlanMismatchError
from motley.plan.layout import Layout, Recompute, Sharding
from motley.plan.timing.schedule import Schedule
from motley.schema import build
from motley.units import Precision


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Consecutive layers [first_layer, last_layer) on one chip or on a group of alike ones.

    The fields from `tensor` to `recompute` are those of `Layout`; bytes are per chip.
    """

    chips: tuple[str, ...]
    first_layer: int
    last_layer: int
    precision: Precision
    tensor: int = 1
    data: int = 1
    expert: int = 1
    sharding: Sharding = "none"
    recompute: Recompute = "none"
    memory_bytes: int = 0
    """Predicted peak."""
    available_bytes: int = 0
    busy_share: float = 0.0
    """Predicted share of the step in which the chips compute."""

    @property
    def chip(self) -> str:
        """The only chip, or the first of the group."""
        return self.chips[0]

    @property
    def label(self) -> str:
        """The chip's name, or that of a group: "4 x a-0 ... a-3"."""
        if len(self.chips) == 1:
            return self.chip
        return f"{len(self.chips)} x {self.chips[0]} ... {self.chips[-1]}"

    @property
    def layers(self) -> range:
        return range(self.first_layer, self.last_layer)

    @property
    def layout(self) -> Layout:
        return Layout(self.tensor, self.data, self.expert, self.sharding, self.recompute)


@dataclass(frozen=True, kw_only=True)
class Replica:
    """One whole copy of the model and its share of the global batch."""

    stages: tuple[Stage, ...]
    num_samples: int
    """Samples of the global batch that this replica computes each step."""
    micro_batch_size: int
    """Samples of one micro-batch; the last one may be smaller."""
    schedule: Schedule = "1f1b"
    """With "interleaved" the stages are virtual: chips may hold several, in any order."""

    @property
    def num_micro_batches(self) -> int:
        return -(-self.num_samples // self.micro_batch_size)

    def micro_batch_samples(self, micro_batch: int) -> int:
        """Samples of one micro-batch."""
        done = micro_batch * self.micro_batch_size
        return min(self.micro_batch_size, self.num_samples - done)


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A split that lost, and why."""

    split: str
    reason: str
    step_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    recipe_digest: str = ""
    """Of what it was made for; empty in a plan that a person wrote."""
    cluster_digest: str = ""
    replicas: tuple[Replica, ...]
    idle_chips: tuple[str, ...] = ()
    """Chips left out because the step is not longer without them."""
    step_s: float = 0.0
    """Predicted time of one step."""
    tokens_per_s: float = 0.0
    """Predicted."""
    usd_per_hour: float | None = None
    """Of the chips that work and of what is sent; None where a price is unknown."""
    usd_per_billion_tokens: float | None = None
    reasons: tuple[str, ...] = ()
    """Why this split; one sentence each."""
    rejected: tuple[Rejected, ...] = ()

    @property
    def world_size(self) -> int:
        """Stages, and so processes where every stage is on one chip."""
        return sum(len(replica.stages) for replica in self.replicas)

    @property
    def chips(self) -> tuple[str, ...]:
        """The chips that work, each once."""
        stages = (stage for replica in self.replicas for stage in replica.stages)
        return tuple(dict.fromkeys(chip for stage in stages for chip in stage.chips))

    def placements(self) -> Iterator[Placement]:
        """Every stage with its rank, in the order of ranks."""
        rank, first_sample = 0, 0
        for index, replica in enumerate(self.replicas):
            for position, stage in enumerate(replica.stages):
                yield Placement(rank, index, position, first_sample, replica, stage)
                rank += 1
            first_sample += replica.num_samples

    @property
    def planned_only(self) -> str:
        """Why the trainer cannot execute the plan; empty if it can."""
        for replica in self.replicas:
            if replica.schedule != "1f1b":
                return f"it uses the schedule '{replica.schedule}'"
            for stage in replica.stages:
                if len(stage.chips) > 1:
                    return f"{stage.label} share a stage"
                if stage.recompute == "selective":
                    return f"{stage.label} recomputes attention only"
        return ""

    def check(self, recipe_digest: str, cluster_digest: str) -> None:
        """`PlanMismatchError` if the plan was made for another recipe or cluster."""
        for made_for, given, what in (
            (self.recipe_digest, recipe_digest, "recipe"),
            (self.cluster_digest, cluster_digest, "cluster"),
        ):
            if made_for and made_for != given:
                raise PlanMismatchError(
                    f"the plan was made for another {what} ({made_for}, this one is {given}).",
                    remedy="Run 'motley plan' again, or leave the plan out to have one made.",
                )

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Placement:
    """One rank: which stage of which replica it runs."""

    rank: int
    replica_index: int
    position: int
    """Place of the stage in its replica's pipeline, from 0."""
    first_sample: int
    """Where the replica's samples begin in the global batch."""
    replica: Replica
    stage: Stage

    @property
    def is_first(self) -> bool:
        return self.position == 0

    @property
    def is_last(self) -> bool:
        return self.position == len(self.replica.stages) - 1


def load_plan(path: Path) -> Plan:
    """The plan of a JSON file; `PlanMismatchError` if it is not one."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PlanMismatchError(f"{path}: no such file.", remedy="Run 'motley plan'.") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as cause:
        raise PlanMismatchError(
            f"{path}: not a plan: {cause}.", remedy="Run 'motley plan' to make a new one."
        ) from None
    return build(Plan, table, path.name, PlanMismatchError)
