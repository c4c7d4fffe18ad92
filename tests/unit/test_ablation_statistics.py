"""Student's and Welch's tests against published figures and against what must hold."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley.ablation.statistics import (
    difference_interval,
    incomplete_beta,
    mean_interval,
    probability_not_lower,
    t_probability,
    t_quantile,
)

T_TABLE = [
    (0.975, 1, 12.7062), (0.975, 2, 4.30265), (0.975, 4, 2.77645), (0.975, 10, 2.22814),
    (0.975, 30, 2.04227), (0.99, 4, 3.74695), (0.99, 8, 2.89646), (0.995, 5, 4.03214),
    (0.95, 120, 1.65765), (0.9995, 3, 12.92398),
]  # fmt: skip
"""Quantiles of Student's t from the usual printed tables."""

numbers = st.floats(-10, 10).map(lambda value: round(value, 3))
samples = st.lists(numbers, min_size=2, max_size=8)


@pytest.mark.parametrize(("probability", "freedom", "t"), T_TABLE)
def test_quantiles_are_those_of_the_printed_tables(
    probability: float, freedom: int, t: float
) -> None:
    assert t_quantile(probability, freedom) == pytest.approx(t, rel=3e-6)
    assert t_probability(t, freedom) == pytest.approx(probability, abs=2e-7)


def test_one_and_two_degrees_of_freedom_have_a_closed_form() -> None:
    for t in (-30.0, -2.0, -0.1, 0.0, 0.7, 5.0, 1e4):
        assert t_probability(t, 1) == pytest.approx(0.5 + math.atan(t) / math.pi, abs=1e-12)
        assert t_probability(t, 2) == pytest.approx(0.5 + t / (2 * math.sqrt(2 + t * t)), abs=1e-12)


def test_the_incomplete_beta_function_of_whole_numbers_is_a_binomial_sum() -> None:
    for a, b, x in ((1, 1, 0.3), (2, 5, 0.2), (7, 3, 0.8), (12, 20, 0.4)):
        n = a + b - 1
        binomial = sum(math.comb(n, k) * x**k * (1 - x) ** (n - k) for k in range(a, n + 1))
        assert incomplete_beta(a, b, x) == pytest.approx(binomial, rel=1e-12)


def test_student_s_sleep_data() -> None:
    """Extra sleep under two drugs (Student, Biometrika 6, 1908); Welch's t is -1.8608 with 17.776
    degrees of freedom and a two-sided p of 0.07939, as R prints it in the help of `t.test`."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    assert probability_not_lower(first, second) == pytest.approx(0.07939 / 2, abs=5e-6)
    found = difference_interval(first, second)
    assert found is not None
    assert (found.low, found.high) == (
        pytest.approx(-3.3654832, abs=1e-6), pytest.approx(0.2054832, abs=1e-6),
    )  # fmt: skip
    assert found.holds_zero


@given(samples, samples)
def test_a_difference_and_its_reverse_mirror_each_other(one: list[float], two: list[float]) -> None:
    there, back = difference_interval(one, two), difference_interval(two, one)
    assert there is not None
    assert back is not None
    assert there.mean == pytest.approx(-back.mean)
    assert there.low == pytest.approx(-back.high)
    p, q = probability_not_lower(one, two), probability_not_lower(two, one)
    assert p is not None
    assert q is not None
    if statistics.pvariance(one) + statistics.pvariance(two) > 0:
        assert p + q == pytest.approx(1.0)
        assert (p < 0.025) == (there.high < 0) or math.isclose(p, 0.025, rel_tol=1e-6)


def test_of_fewer_than_two_values_nothing_is_claimed() -> None:
    assert mean_interval([1.0]) is None
    assert difference_interval([1.0], [1.0, 2.0]) is None
    assert probability_not_lower([1.0, 2.0], [3.0]) is None


def test_values_without_any_spread() -> None:
    assert probability_not_lower([1.0, 1.0], [2.0, 2.0]) == 0.0
    assert probability_not_lower([2.0, 2.0], [2.0, 2.0]) == 1.0
    found = mean_interval([2.0, 2.0])
    assert found is not None
    assert found.low == found.high == 2.0


def test_the_interval_holds_the_true_mean_as_often_as_it_says() -> None:
    generator = random.Random(7)
    held = 0
    for _ in range(500):
        found = mean_interval([generator.gauss(3.0, 2.0) for _ in range(4)])
        assert found is not None
        held += found.low <= 3.0 <= found.high
    assert 0.92 < held / 500 < 0.98
