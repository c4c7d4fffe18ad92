"""The 1F1B schedule: order, warm-up, what is kept, and its time in cases worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley.plan.pipeline import (
    LONG_RUN,
    ActionTime,
    PipelineCost,
    extrapolate_pipeline,
    run_pipeline,
    steady_period,
)
from motley.plan.schedule import (
    Action,
    execution_order,
    in_flight,
    one_forward_one_backward,
)


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


def finish(cost: PipelineCost, num_micro_batches: int) -> float:
    began = run_pipeline(cost, num_micro_batches)
    return max(start + pair[1] for start, pair in zip(began, cost.backward_s, strict=True))


def test_the_schedule_of_three_stages_and_four_micro_batches() -> None:
    def text(position: int) -> str:
        return " ".join(
            f"{action.kind[0]}{action.micro_batch}"
            for action in one_forward_one_backward(position, 3, 4)
        )

    assert text(0) == "f0 f1 f2 b0 f3 b1 b2 b3"
    assert text(1) == "f0 f1 b0 f2 b1 f3 b2 b3"
    assert text(2) == "f0 b0 f1 b1 f2 b2 f3 b3"


@given(st.integers(1, 8), st.integers(1, 20), st.data())
def test_every_micro_batch_goes_forward_once_then_backward_once(
    num_stages: int, num_micro_batches: int, data: st.DataObject
) -> None:
    position = data.draw(st.integers(0, num_stages - 1))
    actions = one_forward_one_backward(position, num_stages, num_micro_batches)
    assert len(actions) == len(set(actions)) == 2 * num_micro_batches
    kept: set[int] = set()
    most = 0
    for kind, micro_batch in actions:
        if kind == "forward":
            kept.add(micro_batch)
        else:
            kept.remove(micro_batch)
        most = max(most, len(kept))
    assert most == in_flight(position, num_stages, num_micro_batches)


@given(st.integers(1, 6), st.integers(1, 12))
def test_the_execution_order_keeps_each_stages_order_and_all_dependencies(
    num_stages: int, num_micro_batches: int
) -> None:
    order = execution_order(num_stages, num_micro_batches)
    done = set()
    for stage, is_forward, micro_batch in order:
        before = stage - 1 if is_forward else stage + 1
        assert not 0 <= before < num_stages or (before, is_forward, micro_batch) in done
        done.add((stage, is_forward, micro_batch))
    for position in range(num_stages):
        own = tuple(
            Action("forward" if is_forward else "backward", micro_batch)
            for stage, is_forward, micro_batch in order
            if stage == position
        )
        assert own == one_forward_one_backward(position, num_stages, num_micro_batches)


def test_even_stages_without_messages_have_the_classic_bubble() -> None:
    # (m + p - 1)(f + b), Narayanan et al., arXiv 2104.04473, section 2.2.1.
    assert finish(pipeline([1.0] * 4, [2.0] * 4), 8) == pytest.approx((8 + 4 - 1) * 3.0)


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
    arrivals = [time.start_s for time in record if time.stage == 1 and time.is_forward]
    assert arrivals == pytest.approx([5.0, 9.0])


durations = st.lists(st.floats(0.01, 1.0), min_size=2, max_size=6)


@given(durations, st.floats(0, 0.5), st.integers(LONG_RUN + 1, 400))
def test_long_runs_are_extrapolated_to_a_few_percent(
    forward: list[float], send: float, num_micro_batches: int
) -> None:
    cost = pipeline(forward, [2 * each for each in forward], send=send, latency=send / 4)
    exact = max(run_pipeline(cost, num_micro_batches))
    assert max(extrapolate_pipeline(cost, num_micro_batches)) == pytest.approx(exact, rel=0.02)


@given(durations, st.floats(0, 0.5))
def test_the_period_is_that_of_a_long_run(forward: list[float], send: float) -> None:
    cost = pipeline(forward, [2 * each for each in forward], send=send)
    slope = (finish(cost, 600) - finish(cost, 300)) / 300
    assert slope == pytest.approx(steady_period(cost), rel=0.01)
