"""What a stage's process uses of its chip: device, clock, memory. One small class for real chips.

The trainer calls `spend` after each piece of work and `wait_until` when something arrives. A real
chip has done the work by then and ignores both; the emulated chip (`emulated.py`) keeps its own
clock by them. The trainer itself never asks which of the two it drives.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from motley.chips.chip import Chip
from motley.units import Precision

TORCH_DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclass
class Saved:
    """What one layer keeps between its forward and its backward, in bytes."""

    num_bytes: int = 0
    storages: set[int] = field(default_factory=set)
    """Where those bytes are; empty on a chip that does not count them."""


class Runtime:
    """A real chip. Times are seconds of the host's monotonic clock."""

    def __init__(self, chip: Chip) -> None:
        self.chip = chip
        self.device = torch.device("cpu" if chip.emulated else chip.device)
        self.dtype = TORCH_DTYPES[chip.precision]

    def now(self) -> float:
        return time.monotonic()

    def mark(self) -> float | torch.Event:
        """A moment in the chip's own course of work; `seconds_between` reads it later."""
        if self.device.type == "cpu":
            return self.now()
        event = torch.Event(self.device, enable_timing=True)
        event.record()
        return event

    def seconds_between(self, first: float | torch.Event, second: float | torch.Event) -> float:
        """Time between two marks; on an accelerator only after `synchronize`."""
        if isinstance(first, torch.Event) and isinstance(second, torch.Event):
            return float(first.elapsed_time(second)) / 1e3
        assert isinstance(first, float)
        assert isinstance(second, float)
        return second - first

    def spend(self, flops: float, num_bytes: float = 0.0) -> None:
        """Work of that size was issued to the chip."""

    def wait_until(self, moment: float) -> None:
        """What the chip waits for is there at `moment`."""

    def align(self, moment: float) -> None:
        """All chips of the run are at `moment` together: a step begins."""

    def exclude(self, parameters: Iterable[Tensor]) -> None:
        """These tensors are held already; `saving` does not count them."""

    def hold(self, num_bytes: float) -> None:
        """The trainer keeps `num_bytes` more on the chip."""

    def release(self, num_bytes: float) -> None:
        """The trainer keeps `num_bytes` less on the chip."""

    @contextlib.contextmanager
    def saving(self, own: Sequence[Tensor], shared: Sequence[Tensor]) -> Iterator[Saved]:
        """Counts what is kept of a layer, where the chip needs that to be counted: its own inputs
        and what autograd keeps inside, without inputs that other layers keep too."""
        yield Saved()

    def synchronize(self) -> None:
        """Waits until the chip has done all that was issued to it."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

    def peak_memory_bytes(self) -> int:
        """Most memory that was in use; on a CPU the process's peak resident set."""
        if self.device.type == "cpu":
            return _peak_resident_bytes()
        stats = torch.accelerator.memory_stats(self.device)
        return int(stats.get("allocated_bytes.all.peak", 0))


def _peak_resident_bytes() -> int:
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
