"""How many samples a step takes, and into how many sequences each is cut: pure functions of the
step, in constant time, so that a run resumes anywhere at once."""

from __future__ import annotations

import math
from collections.abc import Iterator

from motley.recipe import Recipe, ScheduleConfig


def samples_before(recipe: Recipe, step: int) -> int:
    """Samples of all steps before `step` (from 0): the position of its first sample.

    The batch grows in a straight line, so this is its integral, rounded.
    """
    schedule, whole = recipe.schedule, recipe.batch.global_batch
    growing = min(step, schedule.batch_warmup_steps)
    if not growing:
        return whole * step
    first = schedule.batch_warmup
    ramp = first * growing + (1 - first) * growing**2 / (2 * schedule.batch_warmup_steps)
    return math.floor(whole * ramp + 0.5) + whole * (step - growing)


def samples_in(recipe: Recipe, step: int) -> int:
    """Samples of the step."""
    return samples_before(recipe, step + 1) - samples_before(recipe, step)


def pieces_in(schedule: ScheduleConfig, step: int) -> int:
    """Sequences that each sample of the step is cut into."""
    if step >= schedule.sequence_warmup_steps:
        return 1
    num_halvings = schedule.sequence_warmup.bit_length() - 1
    return schedule.sequence_warmup >> step * num_halvings // schedule.sequence_warmup_steps


def piece_phases(recipe: Recipe) -> Iterator[tuple[int, int]]:
    """(pieces, samples of all steps with so many) over the whole training."""
    schedule = recipe.schedule
    num_halvings = schedule.sequence_warmup.bit_length() - 1
    begin = 0
    for halving in range(num_halvings + 1):
        end = schedule.steps
        if halving < num_halvings:
            end = min(end, -(-schedule.sequence_warmup_steps * (halving + 1) // num_halvings))
        samples = samples_before(recipe, end) - samples_before(recipe, begin)
        if samples:
            yield schedule.sequence_warmup >> halving, samples
        begin = end
