"""Seconds of kernels on a chip with an `Efficiency`: products by their shape, attention, passes.

A product of a shape runs at the slower of the chip's matrix engine and its memory (the roofline of
Williams, Waterman and Patterson, CACM 2009). The engine works in tiles: those that a shape does not
fill are computed all the same, and its units stand still at the end of the last wave of tiles.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

from motley.chips.chip import Chip
from motley.plan.stack import Stack
from motley.plan.timing.work import Matmul, Work
from motley.units import BYTES_PER_ELEMENT

TILE = 128
"""Rows and columns of the output that one unit computes at a time; libraries choose among several
sizes, 128 x 128 to 256 x 128 for large products."""

FLASH_GENERATIONS = {1: 0.5, 2: 1.0, 3: 1.6}
"""Rates of FlashAttention's versions over that of the second: it is twice as fast as the first
(arXiv 2307.08691), the third 1.5 to 2 times as fast as the second (arXiv 2407.08608)."""

SHORTEST_SUM = 512
"""Terms that libraries leave to each part of a split sum ("split-K") at least."""

ALIGNMENT_BYTES = 16
LINE_BYTES = 128
"""Products are fastest with rows of whole 128-byte lines, and below 16 bytes they leave the fast
path of tensor cores (NVIDIA, matrix multiplication background user's guide)."""


class Engine(NamedTuple):
    """A chip under a stack: what its kernels reach."""

    linear_flops_per_s: float
    """Of large products by parameters."""
    other_flops_per_s: float
    """Of the attention's products, which are never in fp8."""
    flash_flops_per_s: float
    bandwidth_bytes_per_s: float
    num_units: int
    element_bytes: int
    kernel_s: float
    launch_s: float
    lost_waves: float
    misaligned_share: float
    ragged_share: float


def engine_of(chip: Chip, stack: Stack) -> Engine:
    """What kernels reach on a chip with an `Efficiency`."""
    efficiency, constants = chip.efficiency, stack.constants
    assert efficiency is not None, "a chip without an efficiency is charged counted FLOPs"
    precision = chip.precision
    plain = precision
    if precision == "fp8":
        plain = "bf16" if "bf16" in chip.flops_per_s else "fp16"
    reached = chip.flops_per_s[plain] * efficiency.matmul_share
    linear = reached * constants.matmul_share
    if precision == "fp8":
        share = {
            "tensor": constants.fp8_share,
            "row": constants.fp8_row_share,
            "fused": constants.fp8_fused_share,
        }[stack.fp8_scaling]
        linear *= chip.flops_per_s["fp8"] / chip.flops_per_s[plain] * share
    return Engine(
        linear_flops_per_s=linear,
        other_flops_per_s=reached * constants.matmul_share,
        flash_flops_per_s=chip.flops_per_s[plain]
        * efficiency.flash_share
        * constants.flash_share
        * FLASH_GENERATIONS[stack.flash_generation],
        bandwidth_bytes_per_s=chip.memory_bandwidth_bytes_per_s * constants.memory_share,
        num_units=efficiency.num_units,
        element_bytes=BYTES_PER_ELEMENT[precision],
        kernel_s=constants.kernel_s,
        launch_s=constants.launch_s,
        lost_waves=constants.lost_waves,
        misaligned_share=constants.misaligned_share,
        ragged_share=constants.ragged_share,
    )


@lru_cache(maxsize=65536)
def pass_seconds(engine: Engine, work: Work) -> float:
    """Time of one pass: what the chip needs, and the host to launch it, beside each other.

    It is the 2-norm of both: near the longer of the two, but never free of the other.
    """
    on_chip = sum(matmul_seconds(engine, matmul) for matmul in work.matmuls)
    on_chip += work.flash_flops / engine.flash_flops_per_s
    on_chip += work.moved_bytes / engine.bandwidth_bytes_per_s + work.kernels * engine.kernel_s
    return math.hypot(on_chip, work.kernels * engine.launch_s)


def matmul_seconds(engine: Engine, matmul: Matmul) -> float:
    """Time of all products of one shape."""
    rows, inner, columns, copies, linear = matmul
    rate = engine.linear_flops_per_s if linear else engine.other_flops_per_s
    tiles = copies * _tiles(rows) * _tiles(columns)
    # Few tiles with long sums are split along the sum, so that all units have work.
    parts = min(max(engine.num_units / tiles, 1.0), max(inner / SHORTEST_SUM, 1.0))
    waves = max(tiles * parts / engine.num_units, 1.0) + engine.lost_waves
    by_engine = waves * 2.0 * TILE * TILE * inner / parts * engine.num_units / rate
    by_engine /= min(aligned_share(engine, inner), aligned_share(engine, columns))
    moved = copies * engine.element_bytes * (rows * inner + inner * columns + rows * columns)
    return max(by_engine, moved / engine.bandwidth_bytes_per_s)


def aligned_share(engine: Engine, size: float) -> float:
    """Share of its rate that a product keeps whose rows have that many elements.

    Experts get any number of tokens, which libraries pad.
    """
    num_bytes = size * engine.element_bytes
    if num_bytes != int(num_bytes):
        return 1.0
    if num_bytes % LINE_BYTES == 0:
        return 1.0
    if num_bytes % ALIGNMENT_BYTES == 0 or engine.element_bytes > 2:
        return engine.ragged_share
    return engine.misaligned_share


def _tiles(size: float) -> float:
    """Tiles that cover a side, with smaller ones at the edge down to a quarter."""
    return max(0.25, math.ceil(4.0 * size / TILE) / 4.0)
