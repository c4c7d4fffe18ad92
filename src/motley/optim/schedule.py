"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from motley.recipe import ScheduleConfig


def learning_rate(peak: float, schedule: ScheduleConfig, step: float) -> float:
    """The rate of the update number `step` (from 0): linear warm-up, then decay to a share.

    Cosine decay follows Loshchilov and Hutter (arXiv 1608.03983) without restarts.
    """
    if step < schedule.warmup_steps:
        return peak * (step + 1) / schedule.warmup_steps
    if schedule.decay == "constant":
        return peak
    span = max(1, schedule.steps - schedule.warmup_steps)
    progress = min(1.0, (step - schedule.warmup_steps) / span)
    shape = 1 - progress if schedule.decay == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return peak * (schedule.final_share + (1 - schedule.final_share) * shape)
