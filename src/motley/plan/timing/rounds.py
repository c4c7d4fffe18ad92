"""A schedule as a program: what comes before its steady part, one round of it, and what follows.

Long runs differ only in how often the round is repeated, so programs are few, small and remembered.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from motley.plan.timing.schedule import KINDS, Pass, Schedule, execution_order, timetable


class Rounds(NamedTuple):
    """All passes of a step, as `codes`: `before`, `repeated` some times, `after`."""

    before: tuple[int, ...]
    repeated: tuple[int, ...]
    after: tuple[int, ...]
    last_backwards: tuple[int, ...]
    """Where in `after` (in `before`, if nothing is repeated) each stage's last backward is."""
    group: int
    """Micro-batches of one round."""


@lru_cache(maxsize=4096)
def rounds(
    devices: tuple[int, ...], num_micro_batches: int, schedule: Schedule
) -> tuple[Rounds, int]:
    """The program, and how often its round is repeated."""
    table = timetable(devices, schedule)
    if num_micro_batches <= table.filling:
        return _program(devices, num_micro_batches, schedule), 0
    more, extra = divmod(num_micro_batches - table.filling - 1, table.group)
    return _program(devices, table.filling + 1 + extra, schedule), 1 + more


@lru_cache(maxsize=1024)
def _program(devices: tuple[int, ...], num_micro_batches: int, schedule: Schedule) -> Rounds:
    """With one round, in which every stage runs every kind of pass on full micro-batches."""
    table = timetable(devices, schedule)
    order = execution_order(devices, num_micro_batches, schedule)
    begin = end = order[-1].slot + 1
    if num_micro_batches > table.filling:
        begin = table.filling_periods * table.period
        end = begin + table.period
    before = [one for one in order if one.slot < begin]
    after = [one for one in order if one.slot >= end]
    repeated = [one for one in order if begin <= one.slot < end]
    backward = KINDS.index("backward")
    places = {one.stage: at for at, one in enumerate(after or before) if one.kind == backward}
    num_stages = len(devices)
    return Rounds(
        codes(before, num_stages, num_micro_batches),
        codes(repeated, num_stages, num_micro_batches),
        codes(after, num_stages, num_micro_batches),
        tuple(places[stage] for stage in range(num_stages)),
        table.group,
    )


def codes(passes: Iterable[Pass], num_stages: int, num_micro_batches: int) -> tuple[int, ...]:
    """A number for each: the same for all full micro-batches, and the next one for the last.

    They count stage by stage, and kind by kind.
    """
    last = num_micro_batches - 1
    return tuple(
        2 * (kind * num_stages + stage) + (micro_batch == last)
        for _, kind, stage, micro_batch in passes
    )
