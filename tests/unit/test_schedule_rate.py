"""The learning rate: up in a straight line, down without a rise, to the declared share."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley.optim.schedule import learning_rate
from motley.recipe import ScheduleConfig

peaks = st.floats(min_value=1e-6, max_value=10)


@st.composite
def schedules(draw: st.DrawFn) -> ScheduleConfig:
    steps = draw(st.integers(min_value=1, max_value=500))
    return ScheduleConfig(
        steps=steps,
        warmup_steps=draw(st.integers(min_value=0, max_value=steps - 1)),
        decay=draw(st.sampled_from(["cosine", "linear", "constant"])),
        final_share=draw(st.floats(min_value=0, max_value=1)),
    )


def rates(peak: float, schedule: ScheduleConfig) -> list[float]:
    return [learning_rate(peak, schedule, step) for step in range(schedule.steps + 1)]


@given(peaks, schedules())
def test_the_warm_up_is_linear_and_ends_at_the_peak(peak: float, schedule: ScheduleConfig) -> None:
    warm = rates(peak, schedule)[: schedule.warmup_steps]
    for index, rate in enumerate(warm):
        assert rate == pytest.approx(peak * (index + 1) / schedule.warmup_steps)
        assert rate > 0
    assert learning_rate(peak, schedule, schedule.warmup_steps) == pytest.approx(peak)


@given(peaks, schedules())
def test_the_decay_never_rises_and_ends_at_its_share(peak: float, schedule: ScheduleConfig) -> None:
    falling = rates(peak, schedule)[schedule.warmup_steps :]
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in itertools.pairwise(falling))
    share = 1.0 if schedule.decay == "constant" else schedule.final_share
    assert falling[-1] == pytest.approx(peak * share, abs=1e-12 * peak)


@given(peaks, schedules(), st.integers(min_value=0, max_value=10**6))
def test_beyond_the_end_it_stays_where_it_ended(
    peak: float, schedule: ScheduleConfig, extra: int
) -> None:
    end = learning_rate(peak, schedule, schedule.steps)
    assert learning_rate(peak, schedule, schedule.steps + extra) == end


@given(peaks, schedules())
def test_it_is_proportional_to_the_peak(peak: float, schedule: ScheduleConfig) -> None:
    assert rates(peak, schedule) == pytest.approx([peak * rate for rate in rates(1.0, schedule)])


def test_known_values() -> None:
    schedule = ScheduleConfig(steps=12, warmup_steps=2, decay="cosine", final_share=0.1)
    assert [learning_rate(1.0, schedule, step) for step in (0, 1, 2, 7, 12)] == pytest.approx(
        [0.5, 1.0, 1.0, 0.55, 0.1]
    )
    linear = dataclasses.replace(schedule, decay="linear", final_share=0.0)
    assert [learning_rate(2.0, linear, step) for step in (2, 7, 11, 12)] == pytest.approx(
        [2.0, 1.0, 0.2, 0.0]
    )


def test_a_training_that_ends_in_the_warm_up_has_rates_all_the_way() -> None:
    schedule = ScheduleConfig(steps=3, warmup_steps=10)
    assert rates(1.0, schedule) == pytest.approx([0.1, 0.2, 0.3, 0.4])
