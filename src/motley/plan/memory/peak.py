"""The peak of one stage on each of its chips, from what it needs per sample and micro-batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from motley.plan.memory.footprint import MARGIN
from motley.plan.memory.layer_memory import Transient


@dataclass(frozen=True)
class StageMemory:
    """Predicted peak of one stage on each of its chips, by part, in bytes.

    `total_bytes` must fit the chip and has the margin.
    """

    state_bytes: int
    """Parameters, gradients and optimizer state."""
    activation_bytes: int
    transient_bytes: int
    buffer_bytes: int
    context_bytes: int = 0
    """Outside the framework's allocator: the device's context, communicators."""
    cached_bytes: int = 0
    """What a caching allocator holds besides while there is room; not in `total_bytes`."""
    margin: float = MARGIN
    """Share added to what is allocated."""

    @property
    def allocated_bytes(self) -> int:
        """All tensors at the peak."""
        return self.state_bytes + self.activation_bytes + self.transient_bytes + self.buffer_bytes

    @property
    def total_bytes(self) -> int:
        return math.ceil(self.allocated_bytes * (1 + self.margin)) + self.context_bytes

    @property
    def reserved_bytes(self) -> int:
        """What the allocator would show as reserved on a chip with room."""
        return self.total_bytes - self.context_bytes + self.cached_bytes


class StageNeeds(NamedTuple):
    """What a stage needs on each of its chips; samples are those that the chip computes."""

    state_bytes: float
    """Parameters, gradients that stay, and optimizer state."""
    table_bytes: Callable[[int], float] | None
    """Of memory tables and their gradients, by samples of a micro-batch."""
    kept_bytes: float
    """For each sample of each micro-batch in flight."""
    transients: tuple[Transient, ...]
    """Moments of a pass."""
    taken_bytes: float
    """By the optimizer for its step, behind the last pass."""
    last_exchange: Transient
    """Of gradients, behind the last pass."""
    late_gradient_bytes: float
    """Gradients that are there only behind the last pass."""
    edge_bytes: float
    """For each sample."""
    buffer_bytes: float
    context_bytes: int
    cached_bytes: float
    """Freed, but held by a caching allocator; for each sample."""
    cached_share: float
    """The same as a share of what is allocated."""
    margin: float

    def held_bytes(self, samples: int) -> float:
        """All the time."""
        return self.state_bytes + (self.table_bytes(samples) if self.table_bytes else 0.0)

    def moment_bytes(self, samples: int) -> float:
        """For a moment of a pass, beside the activations."""
        return max([each.of(samples) for each in self.transients])

    def after_bytes(self, samples: int) -> float:
        """Behind the last pass, when the activations are gone."""
        return max(self.taken_bytes, self.last_exchange.of(samples)) + self.late_gradient_bytes

    def peak(self, num_in_flight: int, samples: int) -> StageMemory:
        """With so many micro-batches kept, of so many samples on the chip."""
        state = self.held_bytes(samples)
        activations = num_in_flight * samples * self.kept_bytes
        passing = max(self.moment_bytes(samples), self.after_bytes(samples) - activations)
        buffers = samples * self.edge_bytes + self.buffer_bytes
        allocated = state + activations + passing + buffers
        return StageMemory(
            state_bytes=math.ceil(state),
            activation_bytes=math.ceil(activations),
            transient_bytes=math.ceil(passing),
            buffer_bytes=math.ceil(buffers),
            context_bytes=self.context_bytes,
            cached_bytes=math.ceil(self.cached_share * allocated + samples * self.cached_bytes),
            margin=self.margin,
        )


def device_memory(parts: Sequence[StageMemory]) -> StageMemory:
    """The peak of chips that hold several (virtual) stages at once.

    One of them runs at a time, so the largest moment counts; the context is there once.
    """
    return StageMemory(
        state_bytes=sum(part.state_bytes for part in parts),
        activation_bytes=sum(part.activation_bytes for part in parts),
        transient_bytes=max(part.transient_bytes for part in parts),
        buffer_bytes=sum(part.buffer_bytes for part in parts),
        context_bytes=max(part.context_bytes for part in parts),
        cached_bytes=max(part.cached_bytes for part in parts),
        margin=max(part.margin for part in parts),
    )
