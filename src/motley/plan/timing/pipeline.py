"""When every stage of one replica does what, event by event.

A device runs the passes of its stages in the order of the schedule, each as soon as it is free and
the input has arrived. Messages from one device to another follow each other; they overlap with the
devices' work. The steady part of a long run is a max-plus linear map of the moments before it to
those behind it, which bounds all that follows once those moments grow alike (Baccelli et al.,
"Synchronization and Linearity", 1992, chapter 3).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

import numpy as np

from motley.plan.timing.rounds import codes, rounds
from motley.plan.timing.schedule import KINDS, PassKind, Schedule, execution_order

TOLERANCE = 1e-3
"""Most that an extrapolated run errs, as a share of its time."""

LOOK_BACK = 128
"""Most repetitions of the steady part over which growth is compared."""

FIRST_CHECK = 4
"""Repetitions of the steady part before its growth is looked at."""

_ENDLESS = 10**9
"""Micro-batches of a run whose fill and drain do not count."""


class ActionTime(NamedTuple):
    """One pass of one stage; seconds from the beginning of the step."""

    stage: int
    kind: PassKind
    micro_batch: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class PipelineCost:
    """Seconds of one replica. Pairs are (a full micro-batch, the last one, maybe smaller)."""

    start_s: tuple[float, ...]
    """When each stage's chip is ready to begin: its optimizer has finished."""
    forward_s: tuple[tuple[float, float], ...]
    backward_s: tuple[tuple[float, float], ...]
    """All of it, gradients of weights too."""
    send_s: tuple[tuple[float, float], ...]
    """How long a message occupies the edge behind each stage, either way."""
    latency_s: tuple[float, ...]
    """What a message of that edge needs besides."""
    schedule: Schedule = "1f1b"
    devices: tuple[int, ...] = ()
    """What runs each stage; empty: each its own device."""
    weight_s: tuple[tuple[float, float], ...] = ()
    """The part of `backward_s` that a zero-bubble schedule runs as a pass of its own."""

    @property
    def held_by(self) -> tuple[int, ...]:
        """The device of each stage."""
        return self.devices or tuple(range(len(self.start_s)))


def held_up(cost: PipelineCost) -> PipelineCost:
    """The same where every message holds up the chip that sends it until it has arrived."""
    edges = [
        (full + latency, last + latency)
        for (full, last), latency in zip(cost.send_s, cost.latency_s, strict=True)
    ]
    nothing = (0.0, 0.0)
    return replace(
        cost,
        forward_s=tuple(map(_sum, cost.forward_s, [*edges, nothing])),
        backward_s=tuple(map(_sum, cost.backward_s, [nothing, *edges])),
        send_s=(nothing,) * len(edges),
        latency_s=(0.0,) * len(edges),
    )


def _sum(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
    return first[0] + second[0], first[1] + second[1]


def run_pipeline(
    cost: PipelineCost, num_micro_batches: int, record: list[ActionTime] | None = None
) -> list[float]:
    """The moment at which each stage begins its last backward; `record` receives all passes."""
    if record is not None:
        return _record(cost, num_micro_batches, record)
    if len(cost.start_s) == 1:
        return [_run_single(cost, num_micro_batches)]
    return _run(cost, num_micro_batches, tolerance=None)


def extrapolate_pipeline(cost: PipelineCost, num_micro_batches: int) -> list[float]:
    """`run_pipeline` to `TOLERANCE` of its longest, in a time that hardly grows with the run."""
    if len(cost.start_s) == 1:
        return [_run_single(cost, num_micro_batches)]
    return _run(cost, num_micro_batches, tolerance=TOLERANCE)


def steady_period(cost: PipelineCost) -> float:
    """Seconds per micro-batch of a long run, to `TOLERANCE`."""
    program, repeats = rounds(cost.held_by, _ENDLESS, cost.schedule)
    replica = _Replica(cost)
    replica.run(program.before)
    return replica.settle(program.repeated, repeats, TOLERANCE).seconds / program.group


def gradients_complete(
    cost: PipelineCost, num_micro_batches: int, began: Sequence[float]
) -> list[float]:
    """When each stage has all gradients of its weights, if it `began` its last backward then.

    A zero-bubble stage makes those of the last micro-batch in the last `weight_s` before.
    """
    complete = [start + pair[1] for start, pair in zip(began, cost.backward_s, strict=True)]
    if cost.schedule == "zero-bubble":
        for stage, (whole, _) in enumerate(cost.weight_s):
            complete[stage] += whole * min(stage, num_micro_batches - 1)
    return complete


def _run_single(cost: PipelineCost, num_micro_batches: int) -> float:
    """One stage alone never waits."""
    forward, last_forward = cost.forward_s[0]
    full = num_micro_batches - 1
    return cost.start_s[0] + full * (forward + cost.backward_s[0][0]) + last_forward


def _run(cost: PipelineCost, num_micro_batches: int, tolerance: float | None) -> list[float]:
    """Beginnings of the last backwards; without a tolerance nothing is left out."""
    program, repeats = rounds(cost.held_by, num_micro_batches, cost.schedule)
    replica = _Replica(cost)
    starts = replica.run(program.before)
    left_out_s = 0.0
    if repeats:
        left_out, seconds = replica.settle(program.repeated, repeats, tolerance)
        left_out_s = left_out * seconds
        starts = replica.run(program.after)
    return [starts[place] + left_out_s for place in program.last_backwards]


def _record(cost: PipelineCost, num_micro_batches: int, record: list[ActionTime]) -> list[float]:
    """`run_pipeline`, pass by pass."""
    num_stages = len(cost.start_s)
    replica, began = _Replica(cost), [0.0] * num_stages
    order = execution_order(cost.held_by, num_micro_batches, cost.schedule)
    listed = codes(order, num_stages, num_micro_batches)
    for one, code, start in zip(order, listed, replica.run(listed), strict=True):
        kind, end = KINDS[one.kind], start + replica.steps[code].seconds
        record.append(ActionTime(one.stage, kind, one.micro_batch, start, end))
        if kind == "backward":
            began[one.stage] = start
    return began


class _Step(NamedTuple):
    """What one pass takes from the state of a replica and adds to it."""

    device: int
    seconds: float
    receive: Callable[[], float] | None
    """The arrival of the next input; none where no message is waited for."""
    deliver: Callable[[float], None] | None = None
    link: int = 0
    send_s: float = 0.0
    latency_s: float = 0.0


class _Growth(NamedTuple):
    """How a replica goes on: so many repetitions left out, each of so many seconds."""

    left_out: int
    seconds: float


class _Replica:
    """When devices and links are free, and when the messages under way arrive."""

    def __init__(self, cost: PipelineCost) -> None:
        places = {device: place for place, device in enumerate(dict.fromkeys(cost.held_by))}
        self.device = [places[device] for device in cost.held_by]
        self.free = [0.0] * len(places)
        for device, start in zip(self.device, cost.start_s, strict=True):
            self.free[device] = max(self.free[device], start)
        self.links: dict[tuple[int, int], int] = {}
        self.queues: list[deque[float]] = []
        self.steps = self._steps(cost)
        self.busy = [0.0] * len(self.links)

    def _steps(self, cost: PipelineCost) -> list[_Step]:
        """What the passes do, by their codes."""
        if cost.schedule != "zero-bubble":
            return [*self._kind(cost, cost.forward_s, 1), *self._kind(cost, cost.backward_s, -1)]
        backward = tuple(
            (whole[0] - later[0], whole[1] - later[1])
            for whole, later in zip(cost.backward_s, cost.weight_s, strict=True)
        )
        return [
            *self._kind(cost, cost.forward_s, 1),
            *self._kind(cost, backward, -1),
            *self._kind(cost, cost.weight_s, 0),
        ]

    def _kind(
        self, cost: PipelineCost, seconds: Sequence[tuple[float, float]], ahead: int
    ) -> Iterator[_Step]:
        """Passes of one kind, whose output goes so many stages ahead; 0: nowhere."""
        queues: list[deque[float]] = [deque() for _ in seconds] if ahead else []
        self.queues += queues
        for stage, (whole, last) in enumerate(seconds):
            device, source, target = self.device[stage], stage - ahead, stage + ahead
            receive = queues[stage].popleft if 0 <= source < len(queues) else None
            if 0 <= target < len(queues):
                link = self.links.setdefault((device, self.device[target]), len(self.links))
                edge, deliver = min(stage, target), queues[target].append
                send, latency = cost.send_s[edge], cost.latency_s[edge]
                yield _Step(device, whole, receive, deliver, link, send[0], latency)
                yield _Step(device, last, receive, deliver, link, send[1], latency)
            else:
                yield _Step(device, whole, receive)
                yield _Step(device, last, receive)

    def run(self, passes: Iterable[int]) -> list[float]:
        """When each of the passes (their codes) begins."""
        return self._advance(map(self.steps.__getitem__, passes))

    def _advance(self, steps: Iterable[_Step]) -> list[float]:
        free, busy = self.free, self.busy
        starts = []
        for device, seconds, receive, deliver, link, send_s, latency_s in steps:
            start = free[device]
            if receive is not None:
                arrival = receive()
                if arrival > start:
                    start = arrival
            starts.append(start)
            end = free[device] = start + seconds
            if deliver is not None:
                sent = busy[link]
                if end > sent:
                    sent = end
                sent += send_s
                busy[link] = sent
                deliver(sent + latency_s)
        return starts

    def settle(self, passes: Iterable[int], repeats: int, tolerance: float | None) -> _Growth:
        """Runs a round so many times, or until its growth tells the rest to that tolerance."""
        repeated = [self.steps[code] for code in passes]
        if tolerance is None:
            for _ in range(repeats):
                self._advance(repeated)
            return _Growth(0, 0.0)
        moments: deque[list[float]] = deque(maxlen=LOOK_BACK)
        done, check = 0, FIRST_CHECK
        while done < repeats:
            self._advance(repeated)
            done += 1
            moments.append([*self.free, *self.busy, *chain.from_iterable(self.queues)])
            if done == check:
                check += -(-check // 2)
                period, growth, error = _growth(moments)
                left_out = (repeats - done) // period * period
                if error * left_out <= tolerance * (max(moments[-1]) + growth * left_out):
                    for _ in range(repeats - done - left_out):
                        self._advance(repeated)
                    return _Growth(left_out, growth)
        return _Growth(0, 0.0)


def _growth(moments: Iterable[list[float]]) -> tuple[int, float, float]:
    """The best known growth per repetition: over how many, its seconds, and most that it errs.

    A max-plus linear map keeps order and differences, so no moment will ever grow slower than the
    slowest has grown over some repetitions, nor faster than the fastest.
    """
    known = np.array(moments)
    periods = np.arange(len(known) - 1, 0, -1)
    grown = (known[-1] - known[:-1]) / periods[:, None]
    slowest, fastest = grown.min(axis=1), grown.max(axis=1)
    best = int(np.argmin(fastest - slowest))
    middle = (slowest[best] + fastest[best]) / 2
    return int(periods[best]), float(middle), float(fastest[best] - slowest[best]) / 2
