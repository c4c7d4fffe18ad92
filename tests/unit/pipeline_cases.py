"""Replicas of unlike stages for the tests of schedules and their simulation."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from motley.plan.timing.pipeline import PipelineCost
from motley.plan.timing.schedule import Schedule

SCHEDULES: tuple[Schedule, ...] = ("1f1b", "interleaved", "zero-bubble")


def pipeline(
    forward: list[float],
    backward: list[float],
    *,
    send: float = 0.0,
    latency: float = 0.0,
    start: float = 0.0,
) -> PipelineCost:
    """A replica whose last micro-batch is a full one."""
    edges = len(forward) - 1
    return PipelineCost(
        start_s=(start,) * len(forward),
        forward_s=tuple((each, each) for each in forward),
        backward_s=tuple((each, each) for each in backward),
        send_s=((send, send),) * edges,
        latency_s=(latency,) * edges,
    )


def delayed(cost: PipelineCost, share: float) -> PipelineCost:
    """The replica with a zero-bubble schedule, whose weight passes are this share of backwards."""
    weight = tuple((share * whole, share * last) for whole, last in cost.backward_s)
    return replace(cost, schedule="zero-bubble", weight_s=weight)


def turned(num_devices: int, turns: int) -> tuple[int, ...]:
    """Every device holds every `num_devices`-th stage."""
    return tuple(range(num_devices)) * turns


@st.composite
def device_lists(draw: st.DrawFn, max_stages: int = 8) -> tuple[int, ...]:
    """Which device holds each stage, in any order, some of them several."""
    num_devices = draw(st.integers(1, 4))
    more = draw(st.lists(st.integers(0, num_devices - 1), max_size=max_stages - num_devices))
    return tuple(draw(st.permutations([*range(num_devices), *more])))


@st.composite
def costs(draw: st.DrawFn, schedules: tuple[Schedule, ...] = SCHEDULES) -> PipelineCost:
    """Uneven stages, a smaller last micro-batch, slow edges, any schedule."""
    schedule = draw(st.sampled_from(schedules))
    devices = draw(device_lists()) if schedule == "interleaved" else ()
    num_stages = len(devices) or draw(st.integers(1, 7))
    last = draw(st.floats(0.1, 1))

    def pairs(count: int, least: float, most: float) -> tuple[tuple[float, float], ...]:
        values = draw(st.lists(st.floats(least, most), min_size=count, max_size=count))
        return tuple((each, last * each) for each in values)

    slowness = draw(st.sampled_from([0.0, 0.1, 1.0]))
    cost = PipelineCost(
        start_s=tuple(pair[0] for pair in pairs(num_stages, 0, 1)),
        forward_s=pairs(num_stages, 0.1, 1),
        backward_s=pairs(num_stages, 0.1, 2),
        send_s=pairs(num_stages - 1, 0, slowness),
        latency_s=tuple(pair[0] for pair in pairs(num_stages - 1, 0, slowness)),
    )
    if schedule == "zero-bubble":
        return delayed(cost, draw(st.floats(0, 0.9)))
    return replace(cost, schedule=schedule, devices=devices)
