"""The time of a replica: worked out by hand, closed forms, and against an event queue."""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley.plan.timing.pipeline import (
    TOLERANCE,
    ActionTime,
    PipelineCost,
    extrapolate_pipeline,
    gradients_complete,
    run_pipeline,
    steady_period,
)
from motley.plan.timing.schedule import KINDS, execution_order
from pipeline_cases import costs, delayed, pipeline, turned


def finish(cost: PipelineCost, num_micro_batches: int) -> float:
    began = run_pipeline(cost, num_micro_batches)
    return max(gradients_complete(cost, num_micro_batches, began))


def pass_seconds(cost: PipelineCost, kind: int, stage: int, is_last: bool) -> float:
    if kind == 0:
        return cost.forward_s[stage][is_last]
    weight = cost.weight_s[stage][is_last] if cost.schedule == "zero-bubble" else 0.0
    return weight if kind == 2 else cost.backward_s[stage][is_last] - weight


class EventQueue:
    """The same replica as a queue of events: devices and links that wait for each other."""

    def __init__(self, cost: PipelineCost, num_micro_batches: int) -> None:
        self.cost, self.last = cost, num_micro_batches - 1
        self.events: list[tuple[float, int, str, tuple[int, ...]]] = []
        self.left: dict[int, deque[tuple[int, int, int]]] = defaultdict(deque)
        for _, kind, stage, micro_batch in execution_order(
            cost.held_by, num_micro_batches, cost.schedule
        ):
            self.left[cost.held_by[stage]].append((kind, stage, micro_batch))
        self.here: set[tuple[int, int, int]] = set()
        self.idle: set[int] = set()
        self.waiting: dict[tuple[int, int], deque[tuple[int, int, int]]] = defaultdict(deque)
        self.sending: set[tuple[int, int]] = set()
        self.times: dict[tuple[int, int, int], tuple[float, float]] = {}

    def run(self) -> dict[tuple[int, int, int], tuple[float, float]]:
        """(kind, stage, micro-batch) -> (start, end)."""
        for device in self.left:
            held = [at for at, other in enumerate(self.cost.held_by) if other == device]
            self.later(max(self.cost.start_s[stage] for stage in held), "free", (device,))
        while self.events:
            now, _, what, which = heapq.heappop(self.events)
            getattr(self, what)(now, *which)
        return self.times

    def later(self, moment: float, what: str, which: tuple[int, ...]) -> None:
        heapq.heappush(self.events, (moment, len(self.times), what, which))

    def free(self, now: float, device: int) -> None:
        self.idle.add(device)
        self.begin(now, device)

    def arrive(self, now: float, kind: int, stage: int, micro_batch: int) -> None:
        self.here.add((kind, stage, micro_batch))
        self.begin(now, self.cost.held_by[stage])

    def begin(self, now: float, device: int) -> None:
        if device not in self.idle or not self.left[device]:
            return
        kind, stage, micro_batch = self.left[device][0]
        source = stage + (-1, 1, 0)[kind]
        waits = kind < 2 and 0 <= source < len(self.cost.held_by)
        if waits and (kind, stage, micro_batch) not in self.here:
            return
        self.idle.remove(device)
        self.left[device].popleft()
        end = now + pass_seconds(self.cost, kind, stage, micro_batch == self.last)
        self.times[kind, stage, micro_batch] = (now, end)
        self.later(end, "done", (kind, stage, micro_batch))

    def done(self, now: float, kind: int, stage: int, micro_batch: int) -> None:
        target, held = stage + (1, -1, 0)[kind], self.cost.held_by
        if kind < 2 and 0 <= target < len(held):
            path = (held[stage], held[target])
            self.waiting[path].append((kind, target, micro_batch))
            self.send(now, *path)
        self.free(now, held[stage])

    def send(self, now: float, source: int, target: int) -> None:
        path = (source, target)
        if path in self.sending or not self.waiting[path]:
            return
        self.sending.add(path)
        kind, stage, micro_batch = self.waiting[path].popleft()
        edge = stage - 1 if kind == 0 else stage
        sent = now + self.cost.send_s[edge][micro_batch == self.last]
        self.later(sent, "sent", path)
        self.later(sent + self.cost.latency_s[edge], "arrive", (kind, stage, micro_batch))

    def sent(self, now: float, source: int, target: int) -> None:
        self.sending.remove((source, target))
        self.send(now, source, target)


@settings(max_examples=150)
@given(costs(), st.integers(1, 40))
def test_every_moment_is_that_of_an_event_queue(cost: PipelineCost, num_micro_batches: int) -> None:
    record: list[ActionTime] = []
    began = run_pipeline(cost, num_micro_batches, record)
    expected = EventQueue(cost, num_micro_batches).run()
    assert len(record) == len(expected)
    for time in record:
        start, end = expected[KINDS.index(time.kind), time.stage, time.micro_batch]
        assert (time.start_s, time.end_s) == pytest.approx((start, end), rel=1e-12, abs=1e-12)
    assert run_pipeline(cost, num_micro_batches) == pytest.approx(began, rel=1e-12)


@settings(max_examples=60)
@given(costs(), st.integers(1, 20))
def test_a_device_does_one_thing_at_a_time(cost: PipelineCost, num_micro_batches: int) -> None:
    record: list[ActionTime] = []
    run_pipeline(cost, num_micro_batches, record)
    for device in set(cost.held_by):
        own = sorted(
            (time.start_s, time.end_s) for time in record if cost.held_by[time.stage] == device
        )
        assert all(before[1] <= after[0] for before, after in pairwise(own))


@settings(max_examples=60)
@given(costs(), st.integers(1, 20))
def test_gradients_are_complete_with_the_last_pass_that_makes_them(
    cost: PipelineCost, num_micro_batches: int
) -> None:
    record: list[ActionTime] = []
    began = run_pipeline(cost, num_micro_batches, record)
    complete = gradients_complete(cost, num_micro_batches, began)
    for stage, moment in enumerate(complete):
        assert moment == pytest.approx(max(t.end_s for t in record if t.stage == stage))


@settings(max_examples=60)
@given(costs(("1f1b",)), st.floats(0, 0.9), st.integers(1, 30))
def test_no_zero_bubble_stage_begins_its_last_backward_later(
    cost: PipelineCost, share: float, num_micro_batches: int
) -> None:
    early = run_pipeline(delayed(cost, share), num_micro_batches)
    for sooner, later in zip(early, run_pipeline(cost, num_micro_batches), strict=True):
        assert sooner <= later * (1 + 1e-9)


@settings(max_examples=60)
@given(st.integers(1, 8), st.floats(0.1, 2), st.floats(0, 0.9), st.floats(0, 1), st.integers(1, 40))
def test_zero_bubble_is_never_slower_where_stages_are_alike(
    num_stages: int, backward: float, share: float, send: float, num_micro_batches: int
) -> None:
    cost = pipeline([1.0] * num_stages, [backward] * num_stages, send=send, latency=send / 4)
    assert finish(delayed(cost, share), num_micro_batches) <= finish(cost, num_micro_batches) * (
        1 + 1e-9
    )


def test_even_stages_without_messages_have_the_classic_bubble() -> None:
    # (m + p - 1)(f + b), Narayanan et al., arXiv 2104.04473, section 2.2.1.
    assert finish(pipeline([1.0] * 4, [2.0] * 4), 8) == pytest.approx((8 + 4 - 1) * 3.0)


@pytest.mark.parametrize(("num_devices", "turns"), [(2, 2), (4, 2), (4, 3), (8, 4)])
def test_interleaving_divides_the_bubble_by_the_turns(num_devices: int, turns: int) -> None:
    # m(f + b) + (p - 1)(f + b) / v for whole devices, arXiv 2104.04473, section 2.2.2.
    even = pipeline([1.0] * (num_devices * turns), [2.0] * (num_devices * turns))
    cost = replace(even, schedule="interleaved", devices=turned(num_devices, turns))
    count = 3 * num_devices
    assert finish(cost, count) == pytest.approx(count * turns * 3.0 + (num_devices - 1) * 3.0)


@pytest.mark.parametrize("num_stages", [2, 4, 8])
def test_zero_bubble_leaves_the_bubble_of_zb_h1(num_stages: int) -> None:
    # (p - 1)(f + b - w), Qi et al., arXiv 2401.10241, table 2; here f = b = w = 1.
    cost = delayed(pipeline([1.0] * num_stages, [2.0] * num_stages), 0.5)
    count = 3 * num_stages
    assert finish(cost, count) == pytest.approx(3.0 * count + (num_stages - 1) * 1.0)


def test_the_slowest_stage_sets_the_pace() -> None:
    # Stage 1 works without a pause from the end of f0 on stage 0 to its last backward.
    assert finish(pipeline([1.0, 3.0], [2.0, 6.0]), 10) == pytest.approx(1 + 10 * 9 + 2)


def test_messages_are_waited_for_where_nothing_else_can_be_done() -> None:
    # f0 | message | f0 b0 | message | b0, with 0.5 s on the edge and 0.25 s of latency.
    cost = pipeline([1.0, 1.0], [2.0, 2.0], send=0.5, latency=0.25, start=0.125)
    assert finish(cost, 1) == pytest.approx(0.125 + 1 + 0.75 + 1 + 2 + 0.75 + 2)


def test_a_slow_edge_sets_the_pace() -> None:
    cost = pipeline([0.01, 0.01], [0.02, 0.02], send=5.0)
    assert steady_period(cost) == pytest.approx((0.06 + 10.0) / 2)
    assert finish(cost, 41) - finish(cost, 21) == pytest.approx(20 * steady_period(cost))


def test_messages_of_one_direction_follow_each_other() -> None:
    record: list[ActionTime] = []
    run_pipeline(pipeline([1.0, 0.1, 0.1], [1.0, 0.1, 0.1], send=4.0), 2, record)
    arrivals = [t.start_s for t in record if t.stage == 1 and t.kind == "forward"]
    assert arrivals == pytest.approx([5.0, 9.0])


def test_messages_between_two_devices_share_their_link() -> None:
    # Device 0 sends two forwards of stage 0 to device 1, which sends them back for stage 2.
    even = pipeline([1.0] * 3, [1.0] * 3, send=2.0)
    cost = replace(even, schedule="interleaved", devices=(0, 1, 0))
    record: list[ActionTime] = []
    run_pipeline(cost, 2, record)
    starts = [t.start_s for t in record if t.stage == 2 and t.kind == "forward"]
    # f0 ends at 1, is on the link to 3, passes stage 1 to 4, is back at 6; the second 2 s later.
    assert starts == pytest.approx([6.0, 8.0])


@given(st.integers(1, 6), st.integers(1, 500))
def test_devices_without_a_pause_take_what_they_compute(turns: int, count: int) -> None:
    one = replace(pipeline([0.5] * turns, [1.0] * turns), schedule="interleaved")
    cost = replace(one, devices=(0,) * turns)
    assert finish(cost, count) == pytest.approx(1.5 * turns * count)


@settings(max_examples=100)
@given(costs(), st.integers(1, 3000))
def test_extrapolated_runs_keep_their_tolerance(cost: PipelineCost, num_micro_batches: int) -> None:
    exact = max(run_pipeline(cost, num_micro_batches))
    found = max(extrapolate_pipeline(cost, num_micro_batches))
    assert found == pytest.approx(exact, rel=TOLERANCE)


@settings(max_examples=40)
@given(costs())
def test_the_period_is_that_of_a_long_run(cost: PipelineCost) -> None:
    slope = (finish(cost, 1440) - finish(cost, 720)) / 720
    assert steady_period(cost) >= slope * (1 - 2 * TOLERANCE)
    assert steady_period(cost) == pytest.approx(slope, rel=0.02)


def test_a_run_of_a_hundred_thousand_micro_batches() -> None:
    even = pipeline([1.0, 0.97, 1.02], [2.0, 2.1, 1.9], send=0.3, latency=0.1)
    for cost in (even, delayed(even, 0.45)):
        exact = max(run_pipeline(cost, 100_000))
        assert max(extrapolate_pipeline(cost, 100_000)) == pytest.approx(exact, rel=TOLERANCE)
