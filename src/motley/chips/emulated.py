"""An emulated chip and link: a real process runs the real model and is held to declared figures.

The chip keeps a clock of its own. Counted work moves it on by exactly the time that the declared
rate gives, and the process sleeps until the host's clock has caught up; so a noisy host does not
change the rate as long as it is faster than what it emulates. Messages carry the chip clock at
which they arrive over the declared link. At the beginning of each step the clocks of all chips are
set to the host's, so that a host that was too slow shows up as a longer step and is never made up.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from motley.chips import vendors
from motley.chips.chip import Chip, Link
from motley.chips.runtime import Runtime, Saved
from motley.errors import ChipOutOfMemoryError
from motley.units import size


class EmulatedRuntime(Runtime):
    """A chip that is held to its declared rate and memory."""

    def __init__(self, chip: Chip) -> None:
        super().__init__(chip)
        self._clock = time.monotonic()
        self._held_bytes = 0.0
        self._peak_bytes = 0.0
        self._parameter_storages: frozenset[int] = frozenset()
        self.lag_s = 0.0
        """How far the host was behind the chip's clock at worst in this step."""

    def now(self) -> float:
        return self._clock

    def spend(self, flops: float, num_bytes: float = 0.0) -> None:
        self._clock += self.chip.seconds(flops, num_bytes)
        self._sleep()

    def wait_until(self, moment: float) -> None:
        self._clock = max(self._clock, moment)
        self._sleep()

    def align(self, moment: float) -> None:
        self._clock = moment
        self.lag_s = 0.0

    def _sleep(self) -> None:
        ahead = self._clock - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)
        else:
            self.lag_s = max(self.lag_s, -ahead)

    def exclude(self, parameters: Iterable[Tensor]) -> None:
        """Storages of these tensors are held already and are not counted as activations."""
        self._parameter_storages = frozenset(_storage(tensor) for tensor in parameters)

    def hold(self, num_bytes: float) -> None:
        self._held_bytes += num_bytes
        self._peak_bytes = max(self._peak_bytes, self._held_bytes)
        if self._held_bytes > self.chip.memory_bytes:
            raise ChipOutOfMemoryError(
                f"chip '{self.chip.name}' is out of memory: {size(self._held_bytes)} needed, "
                f"{size(self.chip.memory_bytes)} available.",
                chip=self.chip.name,
                remedy="Use a smaller micro-batch, recompute, or more stages; 'motley plan' does.",
            )

    def release(self, num_bytes: float) -> None:
        self._held_bytes -= num_bytes

    @contextlib.contextmanager
    def saving(self, own: Sequence[Tensor], shared: Sequence[Tensor]) -> Iterator[Saved]:
        """Counts each storage once."""
        saved = Saved()
        elsewhere = self._parameter_storages.union(map(_storage, shared))

        def count(tensor: Tensor) -> Tensor:
            key = _storage(tensor)
            if key not in saved.storages and key not in elsewhere:
                saved.storages.add(key)
                saved.num_bytes += tensor.untyped_storage().nbytes()
            return tensor

        for tensor in own:
            count(tensor)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            yield saved
        self.hold(saved.num_bytes)

    def peak_memory_bytes(self) -> int:
        return round(self._peak_bytes)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class EmulatedEdge:
    """One direction of a link between two chips: messages follow each other."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._free = 0.0

    def arrival(self, ready: float, num_bytes: int) -> float:
        """When a message that is ready at `ready` has arrived, in seconds of the chip's clock."""
        start = max(ready, self._free)
        self._free = start + num_bytes / self._link.bandwidth_bytes_per_s
        return self._free + self._link.latency_s


def open_chip(chip: Chip) -> Runtime:
    """The runtime of a chip, emulated or real; a real one becomes the process's current device."""
    if chip.emulated:
        return EmulatedRuntime(chip)
    if chip.device != "cpu":
        vendors.available_devices()  # imports the vendor's package where it is not built in
        vendors.collective_backend(torch.device(chip.device).type)
        torch.accelerator.set_device_index(torch.device(chip.device))
    return Runtime(chip)
