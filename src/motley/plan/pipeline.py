"""When every stage of one replica does what: the 1F1B schedule, event by event.

A stage runs its actions in order, each as soon as the chip is free and its input has arrived.
Messages of one edge and direction follow each other; they overlap with the chips' work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from motley.plan.schedule import execution_order

LONG_RUN = 48
"""Micro-batches of the runs from which longer ones are extrapolated."""


class ActionTime(NamedTuple):
    """One action of one stage; seconds from the beginning of the step."""

    stage: int
    is_forward: bool
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
    send_s: tuple[tuple[float, float], ...]
    """How long a message occupies the edge behind each stage, either way."""
    latency_s: tuple[float, ...]
    """What a message of that edge needs besides."""


def run_pipeline(
    cost: PipelineCost, num_micro_batches: int, record: list[ActionTime] | None = None
) -> list[float]:
    """The moment at which each stage begins its last backward; `record` receives all actions."""
    num_stages = len(cost.start_s)
    if num_stages == 1 and record is None:
        return [_run_single(cost, num_micro_batches)]
    free = list(cost.start_s)
    began = [0.0] * num_stages
    edge_free = ([0.0] * num_stages, [0.0] * num_stages)
    arrived = [[0.0] * num_stages for _ in range(2 * num_micro_batches)]
    last = num_micro_batches - 1
    for stage, is_forward, micro_batch in execution_order(num_stages, num_micro_batches):
        ragged = micro_batch == last
        start = free[stage]
        if is_forward:
            arrival = arrived[2 * micro_batch][stage]
            seconds = cost.forward_s[stage][ragged]
            target, edge = stage + 1, stage
        else:
            arrival = arrived[2 * micro_batch + 1][stage]
            seconds = cost.backward_s[stage][ragged]
            target, edge = stage - 1, stage - 1
        if arrival > start:
            start = arrival
        end = free[stage] = start + seconds
        began[stage] = start
        if 0 <= target < num_stages:
            busy = edge_free[is_forward]
            sent = (busy[edge] if busy[edge] > end else end) + cost.send_s[edge][ragged]
            busy[edge] = sent
            arrived[2 * micro_batch + (not is_forward)][target] = sent + cost.latency_s[edge]
        if record is not None:
            record.append(ActionTime(stage, is_forward, micro_batch, start, end))
    return began


def _run_single(cost: PipelineCost, num_micro_batches: int) -> float:
    """One stage alone never waits."""
    forward, last_forward = cost.forward_s[0]
    full = num_micro_batches - 1
    return cost.start_s[0] + full * (forward + cost.backward_s[0][0]) + last_forward


def steady_period(cost: PipelineCost) -> float:
    """Time per micro-batch of a long run: the largest mean over the schedule's cycles.

    Consecutive stages i..j must each finish a forward and a backward, and exchange two messages per
    edge, before they may go on by as many micro-batches as they are stages.
    """
    passes = zip(cost.forward_s, cost.backward_s, strict=True)
    work = [forward[0] + backward[0] for forward, backward in passes]
    period = max((send[0] for send in cost.send_s), default=0.0)
    for first in range(len(work)):
        total = 0.0
        for last in range(first, len(work)):
            total += work[last]
            if last > first:
                total += 2 * (cost.send_s[last - 1][0] + cost.latency_s[last - 1])
            period = max(period, total / (last - first + 1))
    return period


def extrapolate_pipeline(cost: PipelineCost, num_micro_batches: int) -> list[float]:
    """Beginnings of the last backward after a long run, from a shorter one and its period.

    The time is a maximum of lines in the number of micro-batches, so it is at least the line
    through two short runs, and at least that of each stage working without a pause.
    """
    step = min(len(cost.start_s), LONG_RUN // 4)
    began = run_pipeline(cost, LONG_RUN)
    earlier = run_pipeline(cost, LONG_RUN - step)
    slope = max(new - old for new, old in zip(began, earlier, strict=True)) / step
    left = num_micro_batches - LONG_RUN
    end = max(began) + left * min(slope, steady_period(cost))
    before = 0.0
    for stage, (forward, backward) in enumerate(zip(cost.forward_s, cost.backward_s, strict=True)):
        work = forward[0] + backward[0]
        end = max(end, before + (num_micro_batches - 1) * work)
        if stage < len(cost.send_s):
            before += work + 2 * (cost.send_s[stage][0] + cost.latency_s[stage])
    return [start + end - max(began) for start in began]
