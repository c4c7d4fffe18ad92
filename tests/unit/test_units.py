"""Numbers as people read them."""

from __future__ import annotations

import math
import typing

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from motley.units import BYTES_PER_ELEMENT, Precision, duration, percent, si, size

SCALES = {"Z": 1e21, "E": 1e18, "P": 1e15, "T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3, "": 1.0}
BINARY = {"TiB": 2**40, "GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "B": 1}


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1.53e12, "FLOP/s", "1.53 TFLOP/s"),
        (1e9, "B/s", "1 GB/s"),
        (999.0, "", "999"),
        (0.0, "W", "0 W"),
        (-2e6, "x", "-2 Mx"),
        (3e18, "FLOP", "3 EFLOP"),
        (2.5e25, "FLOP", "25000 ZFLOP"),
        (999_960.0, "B/s", "1 MB/s"),
        (999.7, "B/s", "1 kB/s"),
        (12.34, "", "12.3"),
    ],
)
def test_si(value: float, unit: str, text: str) -> None:
    assert si(value, unit) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (1000, "1000 B"),
        (1536, "1.5 KiB"),
        (1010 * 2**20, "1010 MiB"),
        (2**30 - 1, "1 GiB"),
        (2**31, "2 GiB"),
        (2**41, "2 TiB"),
    ],
)
def test_size(value: float, text: str) -> None:
    assert size(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 us"),
        (2e-6, "2 us"),
        (0.0042, "4.2 ms"),
        (1.5, "1.5 s"),
        (75.2, "1 min 15 s"),
        (3600, "1 h 00 min"),
        (7384, "2 h 03 min"),
        (90000, "1 d 01 h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_percent() -> None:
    assert [percent(0.953), percent(0.0), percent(1.0)] == ["95.3 %", "0.0 %", "100.0 %"]


@given(st.floats(min_value=1e-2, max_value=1e23))
@example(999_999.0)
def test_si_can_be_read_back(value: float) -> None:
    number, prefix = si(value, "u").split(" ")
    assert float(number) * SCALES[prefix[:-1]] == pytest.approx(value, rel=0.006)


@given(st.integers(min_value=0, max_value=2**44))
@example(1000 * 2**20)
def test_size_can_be_read_back(value: int) -> None:
    number, unit = size(value).split(" ")
    assert float(number) * BINARY[unit] == pytest.approx(value, rel=0.006)


@given(st.floats(min_value=0, max_value=1e9))
@example(59.999)
@example(0.99999)
@example(0.00099999)
@example(3599.7)
@example(86399.9)
def test_a_duration_never_shows_a_full_unit_of_the_next_size(seconds: float) -> None:
    """Not "60 s", "1000 ms", "60 min" or "24 h"."""
    words = duration(seconds).split(" ")
    limits = {"us": 1000.0, "ms": 1000.0, "s": 60.0, "min": 60.0, "h": 24.0, "d": math.inf}
    for number, unit in zip(words[::2], words[1::2], strict=True):
        assert float(number) < limits[unit]


def test_every_precision_has_a_size() -> None:
    assert set(BYTES_PER_ELEMENT) == set(typing.get_args(Precision))
