"""Blocks whose chips share nothing are as many replicas; this writes them out."""

from __future__ import annotations

from collections.abc import Sequence

from motley.plan.search.blocks import Names
from motley.plan.search.choices import ReplicaChoice, Split, StageChoice
from motley.plan.space import Space


def expand(split: Split, groups: Sequence[Names], space: Space) -> tuple[Split, tuple[Names, ...]]:
    """The split over single chips where the space has no groups, else as it is.

    A replica over blocks of n chips becomes n replicas of one chip each stage, which share out its
    samples as evenly as may be; those without a sample are left out.
    """
    if space.groups:
        return split, tuple(groups)
    names: list[Names] = []
    replicas: list[ReplicaChoice] = []
    for replica in split:
        width = len(groups[replica.stages[0].block])
        size = -(-replica.micro_batch_size // width)
        for member in range(width):
            samples = replica.num_samples // width + (member < replica.num_samples % width)
            if not samples:
                continue
            stages = []
            for stage in replica.stages:
                names.append((groups[stage.block][member],))
                stages.append(StageChoice(len(names) - 1, stage.first_layer, stage.last_layer))
            replicas.append(ReplicaChoice(tuple(stages), min(size, samples), samples))
    return tuple(replicas), tuple(names)
