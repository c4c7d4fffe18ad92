"""A plan's replicas with alike ones taken together, and what each group of chips holds and needs.

With an interleaved schedule a group of chips holds several stages of its replica; here they are one
`Part`, since memory and time are the chips'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from motley.cluster import Cluster
from motley.plan.memory.peak import StageMemory, device_memory
from motley.plan.plan import Plan, Replica, Stage
from motley.plan.search.laid import kept_by
from motley.plan.simulate import split_of
from motley.plan.stack import Stack
from motley.recipe import Recipe
from motley.report.words import plural


@dataclass(frozen=True, kw_only=True)
class Part:
    """All that one group of chips holds of one replica."""

    chips: tuple[str, ...]
    stages: tuple[Stage, ...]
    ranks: tuple[int, ...]
    """Of the stages, as in the plan."""
    memory: StageMemory
    available_bytes: int

    @property
    def busy_share(self) -> float:
        """Share of the step in which the chips compute: their optimizer counts once."""
        return min(1.0, sum(stage.busy_share for stage in self.stages))

    @property
    def is_over(self) -> bool:
        """It needs more memory than its chips have."""
        return self.memory.total_bytes > self.available_bytes


@dataclass(frozen=True, kw_only=True)
class Copies:
    """Replicas that differ in nothing but the names of their chips."""

    indices: tuple[int, ...]
    """Of the replicas, as in the plan."""
    replica: Replica
    """One of them."""
    parts: tuple[Part, ...]
    """Of that one, in the order of their first layers."""

    @property
    def title(self) -> str:
        """ "replica 0 and 3 alike"."""
        more = len(self.indices) - 1
        return f"replica {self.indices[0]}" + (f" and {more} alike" if more else "")

    @property
    def num_samples(self) -> int:
        """Of all of them together."""
        return len(self.indices) * self.replica.num_samples


def copies_of(plan: Plan, recipe: Recipe, cluster: Cluster, stack: Stack) -> tuple[Copies, ...]:
    """The plan's replicas, alike ones together, in the plan's order."""
    groups: dict[object, list[int]] = {}
    for index, replica in enumerate(plan.replicas):
        groups.setdefault(_likeness(replica, cluster), []).append(index)
    parts = _parts(plan, recipe, cluster, stack, [indices[0] for indices in groups.values()])
    return tuple(
        Copies(indices=tuple(indices), replica=plan.replicas[indices[0]], parts=own)
        for indices, own in zip(groups.values(), parts, strict=True)
    )


def _likeness(replica: Replica, cluster: Cluster) -> object:
    places = {chips: place for place, chips in enumerate(_groups(replica))}
    stages = tuple(
        (
            places[stage.chips], cluster.chip(stage.chip).kind, stage.first_layer,
            stage.last_layer, stage.precision, stage.layout, stage.available_bytes,
            round(stage.busy_share, 3),
        )
        for stage in replica.stages
    )  # fmt: skip
    return replica.num_samples, replica.micro_batch_size, replica.schedule, stages


def _groups(replica: Replica) -> tuple[tuple[str, ...], ...]:
    return tuple(dict.fromkeys(stage.chips for stage in replica.stages))


def _parts(
    plan: Plan, recipe: Recipe, cluster: Cluster, stack: Stack, chosen: Sequence[int]
) -> list[tuple[Part, ...]]:
    """What the groups of the chosen replicas hold."""
    evaluator, split = split_of(plan, recipe, cluster, stack=stack)
    first_rank, firsts = 0, []
    for replica in plan.replicas:
        firsts.append(first_rank)
        first_rank += len(replica.stages)
    found = []
    for index in chosen:
        replica, choice = plan.replicas[index], split[index]
        needs = [
            evaluator.memory(stage, kept, choice.micro_batch_size, laid.layout)
            for stage, kept, laid in zip(
                choice.stages, kept_by(choice), replica.stages, strict=True
            )
        ]
        found.append(tuple(
            _part(replica, chips, firsts[index], needs, cluster) for chips in _groups(replica)
        ))  # fmt: skip
    return found


def _part(
    replica: Replica,
    chips: tuple[str, ...],
    first_rank: int,
    needs: Sequence[StageMemory],
    cluster: Cluster,
) -> Part:
    held = [place for place, stage in enumerate(replica.stages) if stage.chips == chips]
    return Part(
        chips=chips,
        stages=tuple(replica.stages[place] for place in held),
        ranks=tuple(first_rank + place for place in held),
        memory=device_memory([needs[place] for place in held]),
        available_bytes=cluster.chip(chips[0]).memory_bytes,
    )


def layers_words(*stages: Stage) -> str:
    """Their layers, both ends included: "layers 3-7, 11"."""
    bounds = [(stage.first_layer, stage.last_layer - 1) for stage in stages]
    words = [f"{first}" if first == last else f"{first}-{last}" for first, last in bounds]
    is_one = len(bounds) == 1 and bounds[0][0] == bounds[0][1]
    return f"{'layer' if is_one else 'layers'} {', '.join(words)}"


def layout_words(stage: Stage) -> list[str]:
    """How the stage lies on its chips, one phrase each; empty for one chip that repeats nothing."""
    words = []
    if stage.tensor > 1:
        words.append(f"each layer split over {stage.tensor} chips (tensor parallel)")
    if stage.data > 1:
        words.append(_data_words(stage))
    if stage.expert > 1:
        words.append(f"experts spread over {stage.expert} chips (expert parallel)")
    if stage.recompute == "full":
        words.append("layers computed again in the backward pass (recompute)")
    if stage.recompute == "selective":
        words.append("attention computed again in the backward pass (selective recompute)")
    return words


def _data_words(stage: Stage) -> str:
    members = f"samples shared by {stage.data}"
    if stage.tensor > 1:
        members += " such sets"
    shared = {
        "none": "data parallel, whole copies",
        "optimizer": "data parallel, optimizer state sharded (ZeRO-1)",
        "full": "data parallel, everything sharded (FSDP, ZeRO-3)",
    }
    return f"{members} ({shared[stage.sharding]})"


def micro_batch_words(replica: Replica) -> str:
    """ "12 samples a step in 3 micro-batches of 4"."""
    samples = f"{plural(replica.num_samples, 'sample')} a step"
    count = replica.num_micro_batches
    if count == 1:
        return f"{samples} in one micro-batch"
    last = replica.micro_batch_samples(count - 1)
    ragged = "" if last == replica.micro_batch_size else f", the last of {last}"
    return f"{samples} in {count} micro-batches of {replica.micro_batch_size}{ragged}"


SCHEDULE_WORDS = {
    "1f1b": "one forward, one backward (1F1B)",
    "interleaved": "interleaved: chips hold several stages",
    "zero-bubble": "zero bubble (ZB-H1)",
}
