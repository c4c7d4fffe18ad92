"""Which rank orthogonalises which matrix, where several hold it.

Every rank works this out from the plan alone. The largest matrices are given out first, each to the
rank that would be done first with it (Graham's rule for machines of unlike speed, 1969).
"""

from __future__ import annotations

from collections.abc import Sequence

from motley.optim.matrices import Matrix
from motley.recipe import OptimizerConfig
from motley.units import BYTES_PER_ELEMENT

FLOAT_BYTES = BYTES_PER_ELEMENT["fp32"]


def share_out(
    matrices: Sequence[Matrix],
    config: OptimizerConfig,
    ranges: Sequence[tuple[int, int]],
    rates: Sequence[float],
) -> dict[str, int]:
    """The owner of every matrix, by name.

    Rank i holds the layers [first, last) of `ranges[i]` and computes `rates[i]` FLOP/s.
    """
    busy = [0.0] * len(ranges)
    owners: dict[str, int] = {}
    cost = {matrix.name: matrix.flops(config, FLOAT_BYTES) for matrix in matrices}
    for matrix in sorted(
        matrices, key=lambda each: (len(holders_of(each, ranges)), -cost[each.name])
    ):
        flops = cost[matrix.name]
        owner = min(
            holders_of(matrix, ranges), key=lambda rank: (busy[rank] + flops / rates[rank], rank)
        )
        busy[owner] += flops / rates[owner]
        owners[matrix.name] = owner
    return owners


def holders_of(matrix: Matrix, ranges: Sequence[tuple[int, int]]) -> list[int]:
    """Ranks that hold the matrix, ascending."""
    return [rank for rank, (first, last) in enumerate(ranges) if first <= matrix.layer < last]
