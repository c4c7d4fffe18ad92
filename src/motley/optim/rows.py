"""Row-wise Adagrad: only rows with a gradient change, and each row has one number of state.

The number is the sum of the mean squares of the row's gradients so far (Duchi et al., JMLR 2011,
with one accumulator per row as recommendation models use it: Naumov et al., arXiv 1906.00091). An
update does not depend on the gradient's scale, so it needs neither clipping nor a loss scale.

Shapes: n rows with a gradient, t width of a row.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

EPSILON = 1e-16
"""Keeps a row whose gradient is zero where it is."""


class RowAdagrad:
    """Updates the named tables [rows, t] from their `grad`, a coalesced sparse tensor or None."""

    def __init__(self, tables: Mapping[str, nn.Parameter], rate: float) -> None:
        self._tables = dict(tables)
        self._rate = rate
        self._sums = {
            name: torch.zeros(table.shape[0], device=table.device)
            for name, table in self._tables.items()
        }

    @torch.no_grad()
    def step(self, share: float, update: int) -> None:
        """One update at `share` of the peak rate."""
        for name, table in self._tables.items():
            if table.grad is not None:
                self._step(table, self._sums[name], table.grad, self._rate * share)

    def _step(self, table: Tensor, sums: Tensor, gradient: Tensor, rate: float) -> None:
        rows_n, gradient_nt = gradient.indices()[0], gradient.values()
        sums_n = sums.index_select(0, rows_n).add_(mean_squares(gradient_nt))
        sums.index_copy_(0, rows_n, sums_n)
        steps_n1 = sums_n.sqrt().add_(EPSILON).reciprocal_().mul_(-rate).unsqueeze(1)
        table.index_add_(0, rows_n, gradient_nt * steps_n1)

    def state(self, name: str) -> dict[str, Tensor]:
        """The live sums of one table; empty if it is not this optimizer's."""
        return {"row_sum": self._sums[name]} if name in self._sums else {}


def mean_squares(gradient_nt: Tensor) -> Tensor:
    """Of each row, added up in halves: the same bits on every chip, as `mean` does not promise."""
    width = gradient_nt.shape[1]
    total = gradient_nt.square()
    while total.shape[1] > 1:
        half = (total.shape[1] + 1) // 2
        folded = total[:, :half].clone()
        folded[:, : total.shape[1] - half] += total[:, half:]
        total = folded
    return total[:, 0] / width
