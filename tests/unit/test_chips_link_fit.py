"""Latency and bandwidth from message times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley.chips.link_fit import LinkPoint, fit_link

SIZES = [2**exponent for exponent in range(10, 27, 2)]


def _points(bandwidth: float, latency: float) -> list[LinkPoint]:
    return [LinkPoint(size, latency + size / bandwidth, 5) for size in SIZES]


@given(st.floats(1e6, 1e11), st.floats(1e-6, 1e-1))
def test_an_exact_line_is_found_again(bandwidth: float, latency: float) -> None:
    found_bandwidth, found_latency = fit_link(_points(bandwidth, latency))
    # Against latencies a million times longer, rounding hides part of the bandwidth.
    if SIZES[-1] / bandwidth > 1e-3 * latency:
        assert found_bandwidth == pytest.approx(bandwidth, rel=1e-3)
    if SIZES[0] / bandwidth < 1e3 * latency:
        assert found_latency == pytest.approx(latency, rel=1e-3)


@pytest.mark.parametrize("outlier", range(len(SIZES)))
def test_one_stalled_size_does_not_spoil_the_rest(outlier: int) -> None:
    points = _points(2e9, 50e-6)
    stalled = points[outlier]
    points[outlier] = LinkPoint(stalled.num_bytes, 20 * stalled.seconds, 5)
    bandwidth, latency = fit_link(points)
    assert bandwidth == pytest.approx(2e9, rel=0.05)
    assert latency == pytest.approx(50e-6, rel=0.05)


def test_order_does_not_matter() -> None:
    points = _points(3e9, 20e-6)
    assert fit_link(points[::-1]) == pytest.approx(fit_link(points))


@given(st.lists(st.floats(1e-6, 10.0), min_size=2, max_size=9))
def test_any_times_give_a_usable_link(times: list[float]) -> None:
    points = [LinkPoint(SIZES[i], seconds, 3) for i, seconds in enumerate(times)]
    bandwidth, latency = fit_link(points)
    assert bandwidth > 0
    assert latency >= 0


def test_one_size_is_too_few() -> None:
    with pytest.raises(ValueError, match="two message sizes"):
        fit_link([LinkPoint(1024, 1e-3, 5), LinkPoint(1024, 2e-3, 5)])
