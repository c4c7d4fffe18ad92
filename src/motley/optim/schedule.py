"""Learning rate and momentum as pure functions of the step."""

from __future__ import annotations

import math

from motley.recipe import OptimizerConfig, ScheduleConfig

FIRST_MOMENTUM = 0.85
"""Where Muon's momentum starts while it warms up (modded-nanogpt)."""


def learning_rate(peak: float, schedule: ScheduleConfig, step: float) -> float:
    """The rate of the update number `step` (from 0): linear warm-up, then decay to a share.

    Cosine decay follows Loshchilov and Hutter (arXiv 1608.03983) without restarts; "wsd" stays at
    the peak until its decay begins (Hu et al., arXiv 2404.06395).
    """
    if step < schedule.warmup_steps:
        return peak * (step + 1) / schedule.warmup_steps
    if schedule.decay == "constant":
        return peak
    span = max(1, schedule.steps - schedule.warmup_steps)
    if schedule.decay == "wsd":
        span = min(span, max(1, round(schedule.decay_share * schedule.steps)))
    begin = max(schedule.warmup_steps, schedule.steps - span)
    progress = min(1.0, max(0.0, (step - begin) / span))
    shape = (1 + math.cos(math.pi * progress)) / 2 if schedule.decay == "cosine" else 1 - progress
    return peak * (schedule.final_share + (1 - schedule.final_share) * shape)


def momentum(config: OptimizerConfig, step: int) -> float:
    """Muon's momentum in the update number `step` (from 0): up in a straight line, then level."""
    if step >= config.momentum_warmup_steps:
        return config.momentum
    first = min(FIRST_MOMENTUM, config.momentum)
    return first + (config.momentum - first) * step / config.momentum_warmup_steps
