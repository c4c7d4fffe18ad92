"""The loss scale: one power of two for the whole run, so that fp16 gradients do not vanish.

It is 1 unless a chip of the plan computes in fp16. All ranks see the same gradient norm, so all
move the scale alike. Scheme of Micikevicius et al., "Mixed Precision Training" (arXiv 1710.03740).
"""

from __future__ import annotations

from dataclasses import dataclass

GROW_AFTER_STEPS = 1000
INITIAL_SCALE = 2.0**14


@dataclass
class LossScale:
    """`value` multiplies the loss before the backward pass."""

    value: float = 1.0
    is_dynamic: bool = False
    _good_steps: int = 0

    def update(self, *, finite: bool) -> None:
        """After each step: halve on overflow (that step's update is left out), else grow slowly."""
        if not self.is_dynamic:
            return
        if not finite:
            self.value = max(1.0, self.value / 2)
            self._good_steps = 0
            return
        self._good_steps += 1
        if self._good_steps >= GROW_AFTER_STEPS:
            self.value *= 2
            self._good_steps = 0


def loss_scale_for(precisions: set[str]) -> LossScale:
    """Dynamic if any chip computes in fp16."""
    if "fp16" in precisions:
        return LossScale(value=INITIAL_SCALE, is_dynamic=True)
    return LossScale()
