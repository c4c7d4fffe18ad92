"""`[schedule]`: how long, and at which learning rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from motley.schema import require_positive


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    steps: int = 300
    """Optimizer steps of the whole training."""
    warmup_steps: int = 20
    """Steps of linear warm-up from zero."""
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    final_share: float = 0.1
    """Learning rate at the end, as a share of the peak."""

    def __post_init__(self) -> None:
        require_positive(self, "steps")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps: must not be negative, found {self.warmup_steps}")
        if not 0 <= self.final_share <= 1:
            raise ValueError(f"final_share: must be between 0 and 1, found {self.final_share}")
