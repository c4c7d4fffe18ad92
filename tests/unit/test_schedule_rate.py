"""The learning rate: up in a straight line, down without a rise, to the declared share."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley.optim.schedule import learning_rate, momentum
from motley.recipe import OptimizerConfig, ScheduleConfig

Decay = Literal["cosine", "linear", "constant", "wsd"]
peaks = st.floats(min_value=1e-6, max_value=10)


@st.composite
def schedules(draw: st.DrawFn) -> ScheduleConfig:
    steps = draw(st.integers(min_value=1, max_value=500))
    decay: Decay = draw(st.sampled_from(["cosine", "linear", "constant", "wsd"]))
    share = draw(st.floats(min_value=0.01, max_value=1)) if decay == "wsd" else 0.2
    return ScheduleConfig(
        steps=steps,
        warmup_steps=draw(st.integers(min_value=0, max_value=steps - 1)),
        decay=decay,
        decay_share=share,
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


def test_wsd_is_level_until_its_last_share() -> None:
    schedule = ScheduleConfig(
        steps=100, warmup_steps=10, decay="wsd", decay_share=0.4, final_share=0.0
    )
    assert [learning_rate(1.0, schedule, step) for step in (10, 60, 70, 80, 99)] == pytest.approx(
        [1.0, 1.0, 0.75, 0.5, 0.025]
    )


@given(st.integers(0, 50), st.floats(min_value=0, max_value=0.99))
def test_momentum_rises_to_its_value(steps: int, last: float) -> None:
    config = OptimizerConfig(kind="muon", momentum=last, momentum_warmup_steps=steps)
    values = [momentum(config, step) for step in range(steps + 3)]
    assert values[steps:] == [last] * 3
    assert all(before <= after for before, after in itertools.pairwise(values))
    assert values[0] == (min(0.85, last) if steps else last)


def test_a_training_that_ends_in_the_warm_up_has_rates_all_the_way() -> None:
    schedule = ScheduleConfig(steps=3, warmup_steps=10)
    assert rates(1.0, schedule) == pytest.approx([0.1, 0.2, 0.3, 0.4])
