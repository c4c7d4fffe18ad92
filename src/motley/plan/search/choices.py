"""Splits while they are searched for: light tuples, with blocks by their place in a list."""

from __future__ import annotations

from typing import NamedTuple

from motley.chips.chip import Chip
from motley.cluster import Spread
from motley.plan.layout import Layout
from motley.plan.timing.schedule import Schedule


class Block(NamedTuple):
    """Alike chips that hold a stage together; the smallest is one chip."""

    chip: Chip
    """One of them."""
    spread: Spread
    """How many they are and how they are connected."""

    @property
    def num_chips(self) -> int:
        return self.spread.num_chips

    @property
    def training_flops_per_s(self) -> float:
        """Of all its chips together."""
        return self.num_chips * self.chip.training_flops_per_s


class StageChoice(NamedTuple):
    """Layers [first_layer, last_layer) on a block, by its place in the evaluator's list."""

    block: int
    first_layer: int
    last_layer: int


class ReplicaChoice(NamedTuple):
    """One replica of a split."""

    stages: tuple[StageChoice, ...]
    micro_batch_size: int
    num_samples: int
    schedule: Schedule = "1f1b"
    devices: tuple[int, ...] = ()
    """With an interleaved schedule, which of the replica's groups holds each (virtual) stage."""
    layouts: tuple[Layout, ...] = ()
    """Of the stages; empty: the fastest that fit."""

    @property
    def held_by(self) -> tuple[int, ...]:
        """The group of each stage, by its place in the replica."""
        return self.devices or tuple(range(len(self.stages)))

    @property
    def blocks(self) -> tuple[int, ...]:
        """The block of each group."""
        first = dict(zip(reversed(self.held_by), reversed(self.stages), strict=True))
        return tuple(first[group].block for group in sorted(first))

    @property
    def num_micro_batches(self) -> int:
        return -(-self.num_samples // self.micro_batch_size)

    @property
    def last_samples(self) -> int:
        """Samples of the last micro-batch."""
        return self.num_samples - (self.num_micro_batches - 1) * self.micro_batch_size


Split = tuple[ReplicaChoice, ...]
