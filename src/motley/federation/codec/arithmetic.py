"""Arithmetic that gives the same bits on every machine.

IEEE 754 fixes the result of each elementwise addition, product, quotient and rounding; what differs
between CPUs and libraries is the order of a sum and whether a product and a sum are fused. So:
integers where possible, sums by halving in a stated order, never a BLAS call, a library's sum over
floats, or an operation that scales and adds at once (torch's `alpha=`, `addcmul`, `lerp`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LARGEST = 2.0**96
"""Values from here on count as not finite: no sum or square of ours overflows below."""
SMALLEST_STEP = 2.0**-100
"""Scales below are written as 0, so that no denormal number is ever multiplied."""

_EXPONENT_ROOM = 0xFFFF
_HALF = 0x8000


def fixed_order_sum(values: NDArray[np.float64]) -> float:
    """The sum of a flat array, which it overwrites, in the order of `fixed_order_sums`."""
    return float(fixed_order_sums(values[:, None])[0])


def fixed_order_sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums over the first axis of an array, which it overwrites: the upper half is added to the
    lower, again and again; an odd last one is added to the first."""
    count = values.shape[0]
    if count == 0:
        return np.zeros(values.shape[1:])
    while count > 1:
        half = count // 2
        values[:half] += values[half : 2 * half]
        if count % 2:
            values[0] += values[count - 1]
        count = half
    sums: NDArray[np.float64] = values[0].copy()
    return sums


def sum_of_products(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Sum of a * b over all elements, in float64 (where each product is exact), in fixed order."""
    products = a.reshape(-1).astype(np.float64)
    products *= b.reshape(-1)
    return fixed_order_sum(products)


def short_ceiling(values: NDArray[np.float32]) -> NDArray[np.int16]:
    """The upper 16 bits (bfloat16) of non-negative fp32 values, rounded up; 0 for tiny ones."""
    bits = (values.view(np.int32) + np.int32(_EXPONENT_ROOM)) >> 16
    return np.where(values < SMALLEST_STEP, 0, bits).astype(np.int16)


def short_nearest(values: NDArray[np.float32]) -> NDArray[np.int16]:
    """The same, rounded to the nearest."""
    bits = (values.view(np.int32) + np.int32(_HALF)) >> 16
    return np.where(values < SMALLEST_STEP, 0, bits).astype(np.int16)


def from_short(bits: NDArray[np.int16]) -> NDArray[np.float32]:
    """The fp32 values of upper halves."""
    return (bits.astype(np.int32) << 16).view(np.float32)


def shorts_are_valid(bits: NDArray[np.int16]) -> bool:
    """Whether all are 0 or in [2^-100, 2^96): positive, finite, not denormal."""
    values = from_short(bits)
    inside = (values >= SMALLEST_STEP) & (values < LARGEST)
    return bool((inside | (bits == 0)).all())
