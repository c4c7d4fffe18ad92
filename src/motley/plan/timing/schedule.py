"""The order in which the stages of a replica run their micro-batches.

A schedule is a timetable of slots. In one slot every device has room for one forward, one backward
and, where weight gradients are made on their own, one weight pass, in this order. Slots order the
passes; how long a pass takes is for the simulation (`pipeline.py`). The trainer executes the list
that `one_forward_one_backward` makes from the same timetable; there is no second schedule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from operator import mul
from typing import Literal, NamedTuple

Schedule = Literal["1f1b", "interleaved", "zero-bubble"]
"""1F1B: PipeDream-Flush (Narayanan et al., arXiv 2006.09503), as Megatron-LM runs it (arXiv
2104.04473, figure 4). Interleaved: the same paper, section 2.2.2. Zero-bubble: ZB-H1 (Qi et al.,
arXiv 2401.10241, section 2.1)."""

PassKind = Literal["forward", "backward", "weight"]
"""With a zero-bubble schedule a backward makes only the gradient of the stage's input."""

KINDS: tuple[PassKind, ...] = ("forward", "backward", "weight")
"""In the order in which a device runs the passes of one slot."""


class Action(NamedTuple):
    """One pass of one micro-batch through one stage."""

    kind: PassKind
    micro_batch: int


class Pass(NamedTuple):
    """An action of some stage; tuples sort into an order that keeps all dependencies."""

    slot: int
    kind: int
    """Place in `KINDS`."""
    stage: int
    micro_batch: int


class Timetable(NamedTuple):
    """The slots of all passes of a schedule, for any number of micro-batches."""

    group: int
    """Micro-batches that a stage runs one after the other, before its device turns to another."""
    period: int
    """Slots from one group to the next."""
    offsets: tuple[tuple[int, ...], ...]
    """The slot of micro-batch 0, for each kind of pass and each stage."""

    def passes(self, stage: int, num_micro_batches: int) -> Iterator[Pass]:
        """All passes of one stage, kind by kind."""
        for kind, offsets in enumerate(self.offsets):
            for micro_batch in range(num_micro_batches):
                groups, place = divmod(micro_batch, self.group)
                slot = offsets[stage] + groups * self.period + place
                yield Pass(slot, kind, stage, micro_batch)

    @property
    def filling_periods(self) -> int:
        """Periods until every stage runs every kind of pass."""
        return -(-max(map(max, self.offsets)) // self.period)

    @property
    def filling(self) -> int:
        """Micro-batches up to the end of the first period in which every stage runs every pass."""
        return (self.filling_periods + 1) * self.group


def one_forward_one_backward(
    position: int, num_stages: int, num_micro_batches: int
) -> tuple[Action, ...]:
    """What stage `position` of `num_stages` runs, in order.

    Warm-up forwards fill the stages behind it, then one forward and one backward alternate, then
    the remaining backwards drain. At most `in_flight(...)` micro-batches are kept at any moment.
    """
    own = timetable(tuple(range(num_stages)), "1f1b").passes(position, num_micro_batches)
    return tuple(Action(KINDS[each.kind], each.micro_batch) for each in sorted(own))


def in_flight(
    position: int, num_stages: int, num_micro_batches: int, schedule: Schedule = "1f1b"
) -> int:
    """`in_flight_of` for one stage of a pipeline with one stage on each device."""
    return in_flight_of(tuple(range(num_stages)), num_micro_batches, schedule)[position]


@lru_cache(maxsize=8192)
def in_flight_of(
    devices: tuple[int, ...],
    num_micro_batches: int,
    schedule: Schedule = "1f1b",
    sizes: tuple[float, ...] = (),
) -> tuple[int, ...]:
    """Micro-batches whose activations each stage keeps at the moment when its device keeps most.

    `devices` says where each stage runs. `sizes` are what one micro-batch takes on each stage; if
    they are not given, the stages of a device are taken for alike. A zero-bubble stage keeps
    everything up to its weight pass.
    """
    most = [0] * len(devices)
    weights = sizes or (1.0,) * len(devices)
    filling = timetable(devices, schedule).filling
    for stages, moments in _kept_together(devices, min(num_micro_batches, filling), schedule):
        weighed = [weights[stage] for stage in stages]
        largest = max(moments, key=lambda counts: sum(map(mul, counts, weighed)))
        for stage, count in zip(stages, largest, strict=True):
            most[stage] = count
    return tuple(most)


@lru_cache(maxsize=512)
def _kept_together(
    devices: tuple[int, ...], num_micro_batches: int, schedule: Schedule
) -> list[tuple[list[int], list[tuple[int, ...]]]]:
    """The stages of every device, with all that they keep at once behind some forward."""
    held: dict[int, list[int]] = {}
    for stage, device in enumerate(devices):
        held.setdefault(device, []).append(stage)
    moments: dict[int, dict[tuple[int, ...], None]] = {device: {} for device in held}
    kept = [0] * len(devices)
    frees = len(timetable(devices, schedule).offsets) - 1
    for _, kind, stage, _ in execution_order(devices, num_micro_batches, schedule):
        kept[stage] += (kind == 0) - (kind == frees)
        if kind == 0:
            device = devices[stage]
            moments[device][tuple(kept[other] for other in held[device])] = None
    return [(held[device], list(moments[device])) for device in held]


@lru_cache(maxsize=512)
def execution_order(
    devices: tuple[int, ...], num_micro_batches: int, schedule: Schedule
) -> tuple[Pass, ...]:
    """All stages' passes, each after what it depends on, those of a device in its order.

    A stage's forward needs the stage's before it, a backward the stage's behind it.
    """
    table = timetable(devices, schedule)
    stages = range(len(devices))
    return tuple(sorted(one for stage in stages for one in table.passes(stage, num_micro_batches)))


@lru_cache(maxsize=4096)
def timetable(devices: tuple[int, ...], schedule: Schedule) -> Timetable:
    """The slots of a pipeline whose stage i runs on `devices[i]`."""
    if schedule == "interleaved":
        return _interleaved(devices)
    last = len(devices) - 1
    assert len(set(devices)) == last + 1, f"{schedule} has one stage on each device"
    forward = (0,) * (last + 1)
    backward = tuple(last - stage for stage in range(last + 1))
    if schedule == "1f1b":
        return Timetable(1, 1, (forward, backward))
    # A stage lags with its weight passes by as many micro-batches as there are stages before it:
    # all of them keep what the first one keeps, and alike ones end together.
    return Timetable(1, 1, (forward, backward, (last,) * (last + 1)))


def _interleaved(devices: tuple[int, ...]) -> Timetable:
    """Megatron-LM's order where device i of p holds the stages i, p + i, 2p + i ...

    As there, a device runs as many micro-batches of one of its stages as there are devices, then
    turns to its next stage, and every pass is at least a slot behind the one it waits for. Any
    other assignment follows the same rules.
    """
    group = len(set(devices))
    turns = max(map(devices.count, devices))
    forward = _turns(devices, 0, group, turns)
    backward = _turns(devices[::-1], forward[-1], group, turns)
    return Timetable(group, group * turns, (tuple(forward), tuple(backward[::-1])))


def _turns(devices: Sequence[int], first: int, group: int, turns: int) -> list[int]:
    """The slot in which each stage's turn begins, the stages in the order of their dependency.

    A turn lasts `group` slots; a device has `turns` of them in a period.
    """
    taken: dict[int, set[int]] = {}
    begins: dict[int, int] = {}
    slots: list[int] = []
    for device in devices:
        earliest = slots[-1] + 1 if slots else first
        begin = begins.setdefault(device, earliest)
        turn = -((begin - earliest) // group)
        used = taken.setdefault(device, set())
        while turn % turns in used:
            turn += 1
        used.add(turn % turns)
        slots.append(begin + turn * group)
    return slots
