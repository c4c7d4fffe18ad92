"""Directions of matrices that several ranks hold, from the one that computed them to the others.

They take the gradients' place, in fp32, so that all copies of a matrix move alike to the last bit.
A message over emulated links carries the moment of its arrival in its first eight bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from motley.chips.emulated import EmulatedEdge
from motley.chips.runtime import Runtime
from motley.plan.timing.sync import BUCKET_BYTES
from motley.train.edges import HEADER_BYTES


@dataclass(frozen=True)
class Channel:
    """How one owner's directions reach the other holders."""

    owner: int
    group: dist.ProcessGroup
    direct: bool
    """Whether device tensors go through the group."""
    emulated: EmulatedEdge | None
    """The worst of the links to the others, at the owner."""


class Directions:
    """All exchanges of one rank, in an order that is the same on all ranks: none waits for another
    in a circle."""

    def __init__(
        self, runtime: Runtime, rank: int, parts: Sequence[tuple[Channel, list[Tensor]]]
    ) -> None:
        self._runtime = runtime
        self._rank = rank
        self._parts = [(channel, piece) for channel, all_ in parts for piece in _pieces(all_)]

    def exchange(self) -> None:
        """Fetches what others computed and gives out what this rank did."""
        for channel, tensors in self._parts:
            if channel.direct:
                self._directly(channel, tensors)
            else:
                self._through_host(channel, tensors)

    def _directly(self, channel: Channel, tensors: list[Tensor]) -> None:
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.broadcast(flat, src=channel.owner, group=channel.group)
        if channel.owner != self._rank:
            _fill(tensors, flat)

    def _through_host(self, channel: Channel, tensors: list[Tensor]) -> None:
        num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        buffer = torch.zeros(HEADER_BYTES + num_bytes, dtype=torch.uint8)
        arrival, content = (
            buffer[:HEADER_BYTES].view(torch.float64),
            buffer[HEADER_BYTES:].view(torch.float32),
        )
        if channel.owner == self._rank:
            if channel.emulated:
                arrival.fill_(channel.emulated.arrival(self._runtime.now(), num_bytes))
            content.copy_(torch.cat([tensor.reshape(-1).cpu() for tensor in tensors]))
        dist.broadcast(buffer, src=channel.owner, group=channel.group)
        if channel.owner != self._rank:
            self._runtime.wait_until(float(arrival))
            _fill(tensors, content)


def _fill(tensors: list[Tensor], flat: Tensor) -> None:
    pieces = torch.split(flat, [tensor.numel() for tensor in tensors])
    for tensor, piece in zip(tensors, pieces, strict=True):
        tensor.copy_(piece.view_as(tensor))


def _pieces(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """Runs of them of at most a bucket's size, or a larger one alone."""
    piece: list[Tensor] = []
    for tensor in tensors:
        size = sum(each.numel() * each.element_size() for each in (*piece, tensor))
        if piece and size > BUCKET_BYTES:
            yield piece
            piece = []
        piece.append(tensor)
    if piece:
        yield piece
