"""Splits while they are searched for: light tuples, with chips by their place in a list."""

from __future__ import annotations

from typing import NamedTuple


class StageChoice(NamedTuple):
    """Layers [first_layer, last_layer) on a chip, by its place in the evaluator's list."""

    chip: int
    first_layer: int
    last_layer: int


class ReplicaChoice(NamedTuple):
    """One replica of a split."""

    stages: tuple[StageChoice, ...]
    micro_batch_size: int
    num_samples: int

    @property
    def num_micro_batches(self) -> int:
        return -(-self.num_samples // self.micro_batch_size)

    @property
    def last_samples(self) -> int:
        """Samples of the last micro-batch."""
        return self.num_samples - (self.num_micro_batches - 1) * self.micro_batch_size


Split = tuple[ReplicaChoice, ...]
