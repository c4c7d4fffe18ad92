"""Numbers as people read them, and the sizes of the number formats.

Figures travel through the package as plain floats and ints in SI units (bytes, seconds, FLOP/s);
only the edges (tables, messages, pages) turn them into text, with these functions.
"""

from __future__ import annotations

from typing import Literal

Source = Literal["measured", "quoted", "predicted", "emulated"]
"""Where a figure comes from; every figure that a user sees carries one."""

Precision = Literal["fp32", "bf16", "fp16", "fp8"]
"""The number format of a chip's matmuls; master weights and reductions are always fp32. With "fp8"
all but the products by parameters is in bf16; it can be planned, not trained yet."""

BYTES_PER_ELEMENT: dict[str, int] = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 2}
"""Of activations and of the parameters that layers read."""

_DECIMAL = (
    (1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"),
)  # fmt: skip
_BINARY = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_ROUNDS_UP = 0.9995
"""From this share of the next unit on, three digits would show a full one: not "1e+03 k"."""


def si(value: float, unit: str = "") -> str:
    """1.53e12, "FLOP/s" -> "1.53 TFLOP/s"."""
    for scale, prefix in _DECIMAL:
        if abs(value) >= scale * _ROUNDS_UP:
            return f"{_digits(value / scale)} {prefix}{unit}"
    return f"{_digits(value)} {unit}".rstrip()


def size(num_bytes: float) -> str:
    """1536 -> "1.5 KiB"."""
    for scale, unit in _BINARY:
        if abs(num_bytes) >= scale * _ROUNDS_UP:
            return f"{_digits(num_bytes / scale)} {unit}"
    return f"{num_bytes:.0f} B"


def size_of(used_bytes: float, whole_bytes: float) -> str:
    """Bytes of bytes: "17.5 of 24 GiB"; both units where they differ."""
    used, whole = size(used_bytes), size(whole_bytes)
    number, _, unit = used.partition(" ")
    return f"{number if whole.endswith(f' {unit}') else used} of {whole}"


def duration(seconds: float) -> str:
    """75.2 -> "1 min 15 s"; 0.0042 -> "4.2 ms"."""
    if seconds < 1e-3 * _ROUNDS_UP:
        return f"{_digits(seconds * 1e6)} us"
    if seconds < _ROUNDS_UP:
        return f"{_digits(seconds * 1e3)} ms"
    if seconds < 59.95:
        return f"{_digits(seconds)} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def _digits(value: float) -> str:
    """Three digits, or all of a larger whole number."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def percent(share: float) -> str:
    """0.953 -> "95.3 %"."""
    return f"{share * 100:.1f} %"
