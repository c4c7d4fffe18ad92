"""Whether a training still goes well, and what the likely cause is if it does not."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from motley.errors import DivergedError
from motley.recipe import Recipe
from motley.recipe.optimizer import roles_of

WINDOW_STEPS = 30
"""A loss that is too high in all of so many steps does not come back."""
SUSPECT_STEPS = 5
"""From so many on no checkpoint replaces an older one."""
RISE_NATS = 1.5
"""Above the best of earlier windows, or above guessing all tokens alike: too high. Large weights of
a wide head begin above that: until a loss was once below, it counts from the run's first loss."""
USUAL_RATES: dict[bool, float] = {True: 0.05, False: 0.01}
"""Peak learning rates a few times above the common ones: of a matrix under Muon (0.02), and of
anything under AdamW (0.0003 to 0.003; without QK norm small models break from about 0.01 on,
Wortsman et al., arXiv 2309.14322)."""
NORM_RISE = 5.0
"""Times that a gradient norm grows within a window before a training breaks."""


@dataclass
class LossWatch:
    """Sees every step's loss and gradient norm; the same on all ranks."""

    recipe: Recipe
    bears_rises: bool = False
    """As the training's course says."""
    first_loss: float | None = None
    """Of the run, while none was near that of guessing; None before the first and ever after."""
    _lowest: float = math.inf
    _high_steps: int = 0
    _losses: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW_STEPS))
    _norms: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW_STEPS))

    @property
    def is_suspect(self) -> bool:
        """The loss has been too high for a while: the weights are not worth keeping."""
        return self._high_steps >= SUSPECT_STEPS

    def look(self, step: int, loss: float, norm: float, share: float, *, skips: bool) -> None:
        """After step `step` (from 0) at `share` of the peak rates; `skips`: a norm that is not
        finite was left out on purpose. `DivergedError` if the training is lost."""
        if not (math.isfinite(loss) and (math.isfinite(norm) or skips)):
            self._stop(step, f"the loss is {loss}, the gradient norm {norm}", share)
        if self.bears_rises:
            return
        limit = min(self._lowest, self._origin(step, loss)) + RISE_NATS
        self._high_steps = self._high_steps + 1 if loss > limit else 0
        if self._high_steps >= WINDOW_STEPS:
            said = f"the loss is {loss:.2f}, above {limit:.2f} for {WINDOW_STEPS} steps"
            self._stop(step, said, share)
        self._losses.append(loss)
        self._norms.append(norm)
        if len(self._losses) == WINDOW_STEPS:
            self._lowest = min(self._lowest, sum(self._losses) / WINDOW_STEPS)

    def _origin(self, step: int, loss: float) -> float:
        """The loss of knowing nothing: of guessing, or the first one until guessing is reached."""
        guessing = math.log(self.recipe.model.vocabulary)
        if step == 0:
            self.first_loss = loss
        if loss <= guessing + RISE_NATS:
            self.first_loss = None
        return guessing if self.first_loss is None else max(guessing, self.first_loss)

    def _stop(self, step: int, said: str, share: float) -> None:
        raise DivergedError(f"step {step + 1}: {said}. Likely cause: {self._cause(step, share)}.")

    def _cause(self, step: int, share: float) -> str:
        key, rate, excess = _boldest_rate(self.recipe)
        if excess > 1:
            return (
                f"optimizer.{key} = {rate:g} ({rate * share:.3g} at this step), {excess:.3g} times "
                "what usually trains"
            )
        schedule = self.recipe.schedule
        if step < schedule.warmup_steps:
            return f"rates that rise too fast: schedule.warmup_steps = {schedule.warmup_steps}"
        rise = self._norms[-1] / max(self._norms[0], 1e-30) if self._norms else 0.0
        if rise > NORM_RISE:
            return (
                f"the gradient norm grew to {rise:.3g} times what it was {len(self._norms)} steps "
                f"ago, so rates are too high here; optimizer.{key} = {rate:g} is the boldest"
            )
        return f"optimizer.{key} = {rate:g} is the boldest rate, though not unusual"


def _boldest_rate(recipe: Recipe) -> tuple[str, float, float]:
    """The learning rate that is highest for what it moves: key, peak, and how many times what
    usually trains."""
    config = recipe.optimizer
    found = []
    for role in roles_of(recipe.model):
        rate = config.peak_rate(role)
        is_muon = role == "matrix" and config.orthogonalises
        own = getattr(config, f"{role}_learning_rate") is not None or is_muon
        key = f"{role}_learning_rate" if own else "learning_rate"
        found.append((key, rate, rate / USUAL_RATES[is_muon]))
    return max(found, key=lambda each: each[2])
