"""Gradients of the memory tables: of touched rows alone, from the lookup to the update.

Autograd leaves a sparse tensor in a table's `grad`; the micro-batches of a step are added up there.
At the end of the step the replicas give each other their rows, and each adds them up in the order
of the samples, one replica's sum after the other's. Rows of one replica are distinct, so that order
fixes every bit: all copies of a table stay equal, whatever the chips.

Shapes: n distinct rows, t width of a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Peers:
    """The ranks that hold the tables, this one and others."""

    ranks: tuple[int, ...]
    """Ascending, which is the order of their samples."""
    rank: int
    group: dist.ProcessGroup | None
    direct: bool = False
    """Tensors of the device go through the group; otherwise copies in host memory."""

    @property
    def answers(self) -> bool:
        """Whether this rank saves the tables and hands them out."""
        return self.rank == self.ranks[0]


class TableGradients:
    """The tables of one rank by global name; none on a stage without the embedding."""

    def __init__(self, tables: Mapping[str, nn.Parameter]) -> None:
        self._tables = dict(tables)
        self._peers: Peers | None = None
        self._coalesced: dict[str, int] = {}

    def join(self, peers: Peers) -> None:
        """Other ranks hold the tables too; this one adds up its gradients with theirs."""
        self._peers = peers

    @property
    def answered(self) -> tuple[str, ...]:
        """Names of the tables that this rank answers for."""
        return tuple(self._tables) if self._peers is None or self._peers.answers else ()

    def collect(self) -> None:
        """After each micro-batch: adds up rows that are there twice, before they are too many."""
        for name, table in self._tables.items():
            if table.grad is not None and _num_rows(table.grad) > 2 * self._coalesced.get(name, 0):
                table.grad = table.grad.coalesce()
                self._coalesced[name] = _num_rows(table.grad)

    @torch.no_grad()
    def reduce(self) -> None:
        """The sum over all replicas takes the place of each table's gradient."""
        for table in self._tables.values():
            own = _empty(table) if table.grad is None else table.grad.coalesce()
            table.grad = own if self._peers is None else self._sum(own, self._peers)

    def _sum(self, own: Tensor, peers: Peers) -> Tensor:
        device = own.device if peers.direct else torch.device("cpu")
        rows_n, values_nt = own.indices()[0].to(device), own.values().to(device)
        pieces = _all_gather(rows_n, values_nt, peers)
        return add_in_order(pieces, own.shape).to(own.device)

    def is_finite(self) -> bool:
        """Whether every number of the gradients is."""
        return all(
            bool(table.grad.values().isfinite().all())
            for table in self._tables.values()
            if table.grad is not None
        )

    def scale(self, factor: float) -> None:
        """Multiplies the reduced gradients."""
        for table in self._tables.values():
            if table.grad is not None:
                table.grad.values().mul_(factor)

    def clear(self) -> None:
        """A new step begins."""
        self._coalesced.clear()
        for table in self._tables.values():
            table.grad = None


def add_in_order(pieces: Sequence[tuple[Tensor, Tensor]], shape: torch.Size) -> Tensor:
    """The sum of gradients, each (rows [n], values [n, t]) with distinct rows, as a coalesced
    sparse tensor of that shape."""
    rows_n, places = torch.unique(torch.cat([rows for rows, _ in pieces]), return_inverse=True)
    total_nt = pieces[0][1].new_zeros(len(rows_n), shape[1])
    begin = 0
    for rows, values_nt in pieces:
        total_nt.index_add_(0, places[begin : begin + len(rows)], values_nt)
        begin += len(rows)
    return _sparse(rows_n, total_nt, shape)


def _all_gather(rows_n: Tensor, values_nt: Tensor, peers: Peers) -> list[tuple[Tensor, Tensor]]:
    """What each rank has, in order of ranks. They have unequal numbers of rows, so each sends its
    own to all."""
    mine = torch.tensor([len(rows_n)], device=rows_n.device)
    sizes = [torch.empty_like(mine) for _ in peers.ranks]
    dist.all_gather(sizes, mine, group=peers.group)
    pieces = []
    for rank, size in zip(peers.ranks, sizes, strict=True):
        if rank == peers.rank:
            piece = rows_n.contiguous(), values_nt.contiguous()
        else:
            num_rows = int(size)
            piece = rows_n.new_empty(num_rows), values_nt.new_empty(num_rows, values_nt.shape[1])
        for tensor in piece:
            dist.broadcast(tensor, src=rank, group=peers.group)
        pieces.append(piece)
    return pieces


def _empty(table: Tensor) -> Tensor:
    rows_n = torch.empty(0, dtype=torch.int64, device=table.device)
    return _sparse(rows_n, table.new_empty(0, table.shape[1]), table.shape)


def _sparse(rows_n: Tensor, values_nt: Tensor, shape: torch.Size) -> Tensor:
    return torch.sparse_coo_tensor(
        rows_n.unsqueeze(0), values_nt, shape, is_coalesced=True, check_invariants=False
    )


def _num_rows(gradient: Tensor) -> int:
    """Stored rows, some of them perhaps twice."""
    return int(gradient._nnz())
