"""Gradient reduction: each bucket is summed over the ranks that hold it, under the backward pass.

Replicas may be cut differently, so each bucket has its own set of ranks. One thread per rank works
through the rank's buckets in an order that all ranks share; that order is what keeps different
sets of ranks from waiting for each other in a circle.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import torch
import torch.distributed as dist
from torch import Tensor

from motley.chips.runtime import Runtime


class GradientReducer:
    """The buckets of one rank. `begin` is called when a bucket's gradient is complete."""

    def __init__(
        self,
        runtime: Runtime,
        buffers: dict[int, list[Tensor]],
        groups: dict[int, dist.ProcessGroup | None],
        *,
        direct: dict[int, bool],
    ) -> None:
        self._runtime = runtime
        self._buffers = buffers
        self._groups = groups
        self._direct = direct
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="gradient-reduction")
        self._running: list[Future[list[dist.Work]]] = []
        self._waiting: list[int] = []
        self.ready: dict[int, float] = {}
        """Moment at which each bucket of this step was complete, by the chip's clock."""

    def start_step(self) -> None:
        """No bucket is complete yet."""
        self.ready.clear()
        self._waiting = sorted(self._buffers)

    def begin(self, bucket: int) -> None:
        """The bucket's gradient is complete on this rank; it is reduced when its turn comes.

        The turn is the order of the buckets, the same on all ranks: a head that is tied to the
        embedding is complete early on the last stage, but late on a chip that holds both.
        """
        self.ready[bucket] = self._runtime.now()
        while self._waiting and self._waiting[0] in self.ready:
            following = self._waiting.pop(0)
            if self._groups[following] is not None:
                issued = _record(self._runtime.device)
                self._running.append(self._thread.submit(self._reduce, following, issued))

    def finish(self) -> None:
        """Waits until all buckets of the step are reduced; raises what went wrong in one."""
        for reduction in self._running:
            for work in reduction.result():
                work.wait()
        self._running.clear()

    def _reduce(self, bucket: int, issued: torch.Event | None) -> list[dist.Work]:
        """Sums the bucket; returns what the chip's own stream still has to wait for."""
        if issued is not None:
            issued.synchronize()
        group = self._groups[bucket]
        unfinished = []
        for buffer in self._buffers[bucket]:
            if self._direct[bucket]:
                work = dist.all_reduce(buffer, group=group, async_op=True)
                assert work is not None
                unfinished.append(work)
            elif buffer.device.type == "cpu":
                dist.all_reduce(buffer, group=group)
            else:
                staged = buffer.cpu()
                dist.all_reduce(staged, group=group)
                buffer.copy_(staged)
        return unfinished

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def _record(device: torch.device) -> torch.Event | None:
    if device.type == "cpu":
        return None
    event = torch.Event(device)
    event.record()
    return event
