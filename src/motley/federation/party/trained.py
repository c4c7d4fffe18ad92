"""What passes between a party's training and its correspondence with the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a party has trained for a round. Figures are measured at the party."""

    round: int
    local: Mapping[str, Tensor]
    """The party's own parameters, fp32 in host memory; not changed any more."""
    tokens: int
    steps: int
    seconds: float
    """Without the time in which training stood still."""
    loss: float | None
    """Mean over the steps in nats per token; None if it was not finite."""


@dataclass(frozen=True, kw_only=True)
class News:
    """What rounds that were sealed make of the party's parameters: keep * own + change."""

    round: int
    """The round to train for now."""
    keep: float
    change: Mapping[str, Tensor]

    def after(self, earlier: News | None) -> News:
        """Both, one after the other, as one."""
        if earlier is None or self.keep == 0.0:
            return self
        assert self.keep == 1.0
        both = dict(earlier.change)
        for name, change in self.change.items():
            both[name] = both[name] + change if name in both else change
        return News(round=self.round, keep=earlier.keep, change=both)
