"""Which training dtype is chosen for which rates, and what the reason says."""

from __future__ import annotations

import pytest

from motley.chips.precision import choose_precision
from motley.errors import ProbeError
from motley.units import Precision


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ({"fp32": 0.4e12, "bf16": 2.1e12, "fp16": 0.3e12}, "bf16"),
        ({"fp32": 1e12, "bf16": 1.1e12, "fp16": 9e12}, "bf16"),
        ({"fp32": 15e12, "bf16": 14e12, "fp16": 110e12}, "fp16"),
        ({"fp32": 15e12, "fp16": 22.5e12}, "fp16"),
        ({"fp32": 11e12, "bf16": 5e12, "fp16": 0.2e12}, "fp32"),
        ({"fp32": 1e12, "bf16": 1.05e12, "fp16": 1.4e12}, "fp32"),
        ({"fp32": 1e12}, "fp32"),
        ({"bf16": 5e12}, "bf16"),
    ],
)
def test_choice(rates: dict[Precision, float], expected: str) -> None:
    precision, reason = choose_precision(rates)
    assert precision == expected
    assert reason.startswith(expected)
    assert reason.endswith(".")


def test_the_reason_gives_the_figures() -> None:
    _, reason = choose_precision({"fp32": 0.396e12, "bf16": 2.1e12})
    assert reason == "bf16: its matmul is 5.3x fp32 (2.1 against 0.40 TFLOP/s measured)."


def test_fp16_says_that_it_needs_loss_scaling() -> None:
    _, reason = choose_precision({"fp32": 15e12, "fp16": 110e12})
    assert "loss scaling" in reason
    assert "bf16 does not work here" in reason


def test_nothing_that_works_is_an_error() -> None:
    with pytest.raises(ProbeError):
        choose_precision({})


def test_fp8_is_never_chosen() -> None:
    assert choose_precision({"fp32": 1e12, "bf16": 2e12, "fp8": 9e12})[0] == "bf16"
    with pytest.raises(ProbeError):
        choose_precision({"fp8": 9e12})
