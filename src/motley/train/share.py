"""What one replica computes of one step: its part of the step's samples, in micro-batches.

In a step with a smaller batch each replica takes the part in the same proportion, which may be
nothing for a small one.
"""

from __future__ import annotations

from dataclasses import dataclass

from motley.optim.curriculum import pieces_in, samples_before, samples_in
from motley.plan.plan import Placement
from motley.recipe import Recipe


@dataclass(frozen=True)
class Share:
    """Positions of samples, and how they are cut."""

    samples: range
    micro_batch_size: int
    pieces: int
    """Sequences that each sample is cut into."""
    sequence_length: int
    """Tokens of one of them."""

    @property
    def num_micro_batches(self) -> int:
        return -(-len(self.samples) // self.micro_batch_size)

    def positions(self, micro_batch: int) -> range:
        """Of the samples of one micro-batch; the last one may have fewer."""
        first = micro_batch * self.micro_batch_size
        return self.samples[first : first + self.micro_batch_size]

    def shapes(self, width: int) -> list[tuple[int, int, int]]:
        """Of the messages of all micro-batches, with so many numbers for each token."""
        return [
            (len(self.positions(index)) * self.pieces, self.sequence_length, width)
            for index in range(self.num_micro_batches)
        ]


def share_of(recipe: Recipe, placement: Placement, step: int) -> Share:
    """The replica's share of the step (from 0)."""
    before, now = samples_before(recipe, step), samples_in(recipe, step)
    whole, replica = recipe.batch.global_batch, placement.replica
    bounds = placement.first_sample, placement.first_sample + replica.num_samples
    first, last = (before + bound * now // whole for bound in bounds)
    pieces = pieces_in(recipe.schedule, step)
    return Share(
        range(first, last),
        replica.micro_batch_size,
        pieces,
        recipe.batch.sequence_length // pieces,
    )
