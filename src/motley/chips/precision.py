"""Which number format a chip should train in, from the matmul rates that it was measured at."""

from __future__ import annotations

from collections.abc import Mapping

from motley.errors import ProbeError
from motley.units import Precision

MIN_BF16_GAIN = 1.1
"""bf16 keeps the range of fp32, so a small gain pays."""
MIN_FP16_GAIN = 1.5
"""fp16 needs loss scaling and may lose steps to overflow, so its gain must be clear."""


def choose_precision(rates: Mapping[Precision, float]) -> tuple[Precision, str]:
    """The training dtype for these matmul rates (FLOP/s, by the dtypes that work), and why.

    The reason is a full sentence. fp8 is never chosen: the trainer does not run it. `ProbeError`
    if no other dtype works.
    """
    rates = {precision: rate for precision, rate in rates.items() if precision != "fp8"}
    if not rates:
        raise ProbeError("no dtype works for matmuls.", remedy="Check the PyTorch build.")
    fp32, bf16, fp16 = rates.get("fp32"), rates.get("bf16"), rates.get("fp16")
    if fp32 is None:
        best = max(rates, key=lambda precision: rates[precision])
        return best, f"{best}: fp32 does not work here, and {best} has the best matmul rate."
    if bf16 is not None and bf16 >= MIN_BF16_GAIN * fp32:
        return "bf16", f"bf16: its matmul is {_compare(bf16, fp32)}."
    if fp16 is not None and fp16 >= MIN_FP16_GAIN * fp32:
        return "fp16", (
            f"fp16, with loss scaling: its matmul is {_compare(fp16, fp32)}, and "
            f"{_why_not('bf16', bf16, fp32)}."
        )
    return "fp32", f"fp32: {_why_not('bf16', bf16, fp32)}, and {_why_not('fp16', fp16, fp32)}."


def _why_not(precision: Precision, rate: float | None, fp32: float) -> str:
    if rate is None:
        return f"{precision} does not work here"
    return f"{precision} has only {_compare(rate, fp32)}"


def _compare(rate: float, fp32: float) -> str:
    """For example "5.3x fp32 (2.1 against 0.40 TFLOP/s measured)"."""
    scale, unit = (1e12, "TFLOP/s") if max(rate, fp32) >= 1e11 else (1e9, "GFLOP/s")
    figures = f"{_two_digits(rate / scale)} against {_two_digits(fp32 / scale)}"
    return f"{rate / fp32:.2g}x fp32 ({figures} {unit} measured)"


def _two_digits(value: float) -> str:
    if value >= 10:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"
