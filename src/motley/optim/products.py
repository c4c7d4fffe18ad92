"""The matrix products of one orthogonalisation, counted; one multiply-add is 2 FLOPs."""

from __future__ import annotations

from motley.units import BYTES_PER_ELEMENT, Precision

MOST_GRAM_ITERATIONS = 5
"""Iterations on xx' multiply its rounding errors by the squared slopes of the polynomials; after
five of them an error of fp32 has grown to about a tenth."""


def products_precision(precision: Precision) -> Precision:
    """The format of the products on a chip that trains in `precision`: fp16 is too narrow for the
    powers of small singular values, so there they are fp32."""
    return "fp32" if precision == "fp16" else precision


def direct_flops(rows: int, columns: int, iterations: int) -> float:
    """Each iteration makes xx', its square, and their combination times x."""
    return iterations * (4.0 * rows**2 * columns + 2.0 * rows**3)


def gram_flops(rows: int, columns: int, iterations: int) -> float:
    """xx' and the last product once; four products of squares for each iteration, but none to begin
    the product of factors and none to continue after the last."""
    squares = 4 * iterations - 3 if iterations > 1 else 1
    return 4.0 * rows**2 * columns + 2.0 * rows**3 * squares


def prefers_gram(rows: int, columns: int, iterations: int, element_bytes: int) -> bool:
    """Whether iterating on xx' takes fewer FLOPs and is exact enough."""
    if element_bytes < BYTES_PER_ELEMENT["fp32"] or iterations > MOST_GRAM_ITERATIONS:
        return False
    return gram_flops(rows, columns, iterations) < direct_flops(rows, columns, iterations)


def orthogonal_flops(outputs: int, inputs: int, iterations: int, element_bytes: int) -> float:
    """Of one matrix [outputs, inputs]."""
    rows, columns = min(outputs, inputs), max(outputs, inputs)
    if prefers_gram(rows, columns, iterations, element_bytes):
        return gram_flops(rows, columns, iterations)
    return direct_flops(rows, columns, iterations)
