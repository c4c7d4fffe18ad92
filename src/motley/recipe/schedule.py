"""`[schedule]`: how long, at which learning rates, and with how much of the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from motley.schema import require_at_most, require_positive, require_unset, switch


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    steps: int = 300
    """Optimizer steps of the whole training."""
    warmup_steps: int = 20
    """Steps of linear warm-up from zero."""
    decay: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """From the peak to the final share: over all steps, or with "wsd" (warm-up, stable, decay) in a
    straight line over the last of them."""
    decay_share: float = switch(0.2)
    """Share of the steps in which "wsd" decays."""
    final_share: float = 0.1
    """Learning rate at the end, as a share of the peak."""
    batch_warmup: float = switch(1.0)
    """Share of the global batch in the first step; it grows evenly to the whole."""
    batch_warmup_steps: int = switch(0)
    """Steps until then."""
    sequence_warmup: int = switch(1)
    """Shorter sequences that each sample is cut into at first, a power of two; halved at even
    distances until samples are whole."""
    sequence_warmup_steps: int = switch(0)
    """Steps until then."""
    tail_average_share: float = switch(0.0)
    """The weights that validation at the end, samples and exports use are the mean over this last
    share of the steps."""

    def __post_init__(self) -> None:
        require_positive(self, "steps", "decay_share", "batch_warmup", "sequence_warmup")
        require_at_most(self, steps=10**9)
        for name in ("warmup_steps", "batch_warmup_steps", "sequence_warmup_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: must not be negative, found {getattr(self, name)}")
        for name in ("final_share", "decay_share", "batch_warmup", "tail_average_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: must be between 0 and 1, found {getattr(self, name)}")
        if self.decay != "wsd":
            require_unset(self, ("decay_share",), f'decay is "{self.decay}", and it is of "wsd"')
        if self.sequence_warmup & (self.sequence_warmup - 1):
            raise ValueError(f"sequence_warmup: must be a power of two, not {self.sequence_warmup}")
        for name, off in (("batch_warmup", 1), ("sequence_warmup", 1)):
            if getattr(self, name) != off and not getattr(self, f"{name}_steps"):
                raise ValueError(f"{name}: takes no steps; set {name}_steps as well")

    @property
    def tail_begin(self) -> int:
        """The weights after each update from this one on (from 0) are averaged."""
        return self.steps - round(self.tail_average_share * self.steps)

    def averages(self, step: int) -> bool:
        """Whether the weights after `step` updates belong to the mean over the last ones."""
        return self.tail_average_share > 0 and step > self.tail_begin
