"""The edges of a pipeline: activations go on to the next stage, gradients come back.

Two kinds. A host edge sends one host buffer over gloo, whatever the devices at its ends are; the
first eight bytes carry the moment of arrival over an emulated link. A direct edge sends the device
tensor with the collective library that both ends share. Sends never block; receives are posted
before they are needed, so that the transfer runs under the computation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from motley.chips.emulated import EmulatedEdge
from motley.chips.runtime import Runtime

HEADER_BYTES = 8


class Sender:
    """The sending end of one direction of an edge."""

    def __init__(
        self,
        runtime: Runtime,
        peer: int,
        dtype: torch.dtype,
        *,
        group: dist.ProcessGroup | None,
        direct: bool,
        emulated: EmulatedEdge | None,
    ) -> None:
        self._runtime = runtime
        self._peer = peer
        self._dtype = dtype
        self._group = group
        self._direct = direct
        self._emulated = emulated
        self._pending: deque[tuple[dist.Work, Tensor]] = deque()

    def send(self, tensor: Tensor) -> None:
        """Begins to send `tensor`; the caller may go on at once."""
        while self._pending and self._pending[0][0].is_completed():
            self._pending.popleft()
        message = tensor.detach().to(self._dtype).contiguous()
        buffer = message if self._direct else self._pack(message)
        work = dist.isend(buffer, self._peer, group=self._group)
        assert work is not None
        self._pending.append((work, buffer))

    def _pack(self, message: Tensor) -> Tensor:
        ready = self._runtime.now()
        num_bytes = message.numel() * message.element_size()
        arrival = self._emulated.arrival(ready, num_bytes) if self._emulated else 0.0
        buffer = torch.empty(HEADER_BYTES + num_bytes, dtype=torch.uint8)
        buffer[:HEADER_BYTES].view(torch.float64).fill_(arrival)
        buffer[HEADER_BYTES:].view(self._dtype).copy_(message.reshape(-1))
        return buffer

    def finish(self) -> None:
        """Waits until the other end has everything."""
        while self._pending:
            self._pending.popleft()[0].wait()


class Receiver:
    """The receiving end of one direction of an edge."""

    def __init__(
        self,
        runtime: Runtime,
        peer: int,
        dtype: torch.dtype,
        *,
        group: dist.ProcessGroup | None,
        direct: bool,
    ) -> None:
        self._runtime = runtime
        self._peer = peer
        self._dtype = dtype
        self._group = group
        self._direct = direct
        self._shapes: deque[tuple[int, ...]] = deque()
        self._posted: deque[tuple[dist.Work, Tensor, tuple[int, ...]]] = deque()

    def expect(self, shapes: Iterable[tuple[int, ...]]) -> None:
        """The shapes of the messages that will come, in order; the first is posted at once."""
        self._shapes.extend(shapes)
        self._post()

    def receive(self) -> Tensor:
        """The next message, on the chip and in its dtype; waits for it."""
        work, buffer, shape = self._posted.popleft()
        work.wait()
        self._post()
        if self._direct:
            return buffer.to(self._runtime.dtype)
        self._runtime.wait_until(float(buffer[:HEADER_BYTES].view(torch.float64)))
        message = buffer[HEADER_BYTES:].view(self._dtype).view(shape)
        return message.to(self._runtime.device, self._runtime.dtype)

    def _post(self) -> None:
        if not self._shapes:
            return
        shape = self._shapes.popleft()
        num_bytes = torch.Size(shape).numel() * self._dtype.itemsize
        if self._direct:
            buffer = torch.empty(shape, dtype=self._dtype, device=self._runtime.device)
        else:
            buffer = torch.empty(HEADER_BYTES + num_bytes, dtype=torch.uint8)
        work = dist.irecv(buffer, self._peer, group=self._group)
        assert work is not None
        self._posted.append((work, buffer, shape))
