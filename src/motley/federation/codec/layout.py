"""Named tensors as one matrix of equal chunks, worked on slab by slab.

Each tensor, in the order of its name, is flattened and padded with zeros to whole chunks. A slab is
some tens of thousands of consecutive values: small enough to stay in a core's cache over all passes
of a codec, large enough that the passes and not the calls take the time. Slabs are independent, so
threads may take them in any order without changing a bit.

Legend: c chunks of a slab, e elements of a chunk.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

SLAB_VALUES = 2**18
"""Values of a slab at most, 1 MiB in fp32; the fastest of 2^16 to 2^20 on two server CPUs."""

Shapes = Mapping[str, Sequence[int]]
"""Parameter name to shape."""
Floats = NDArray[np.float32]
Item = TypeVar("Item")
Result = TypeVar("Result")


class Piece(NamedTuple):
    """Values [start, stop) of a tensor, at `place` in its slab."""

    name: str
    start: int
    stop: int
    place: int

    @property
    def span(self) -> slice:
        """Where they stand in the slab."""
        return slice(self.place, self.place + self.stop - self.start)


@dataclass(frozen=True, kw_only=True)
class Slab:
    """Consecutive chunks."""

    first: int
    num_chunks: int
    pieces: tuple[Piece, ...]
    tails: tuple[tuple[int, int], ...]
    """(chunk of the slab, number of its values) of chunks that end in padding."""

    @property
    def rows(self) -> slice:
        """The slab's chunks among all."""
        return slice(self.first, self.first + self.num_chunks)

    def clear_padding(self, values_ce: NDArray[Any]) -> None:
        """Zeros where no tensor has a value, whatever a payload says there."""
        for row, size in self.tails:
            values_ce[row, size:] = 0


class Layout:
    """Where the values of named tensors lie among the chunks of `chunk` values."""

    def __init__(self, shapes: Shapes, chunk: int) -> None:
        self.chunk = chunk
        self.names = sorted(shapes)
        self.sizes = [math.prod(shapes[name]) for name in self.names]
        ends = [0]
        for size in self.sizes:
            ends.append(ends[-1] + -(-size // chunk))
        self._ends = ends

    @property
    def num_chunks(self) -> int:
        return self._ends[-1]

    @property
    def num_values(self) -> int:
        """Without the padding."""
        return sum(self.sizes)

    def slabs(self, max_values: int | None = None) -> Iterator[Slab]:
        """All chunks in order, in slabs of at most `max_values` values, but at least one chunk."""
        step = max(1, (max_values or SLAB_VALUES) // self.chunk)
        for first in range(0, self.num_chunks, step):
            num_chunks = min(step, self.num_chunks - first)
            pieces = self._pieces(first, num_chunks)
            ends = (piece.span.stop for piece in pieces)
            tails = tuple(divmod(end, self.chunk) for end in ends if end % self.chunk)
            yield Slab(first=first, num_chunks=num_chunks, pieces=pieces, tails=tails)

    def _pieces(self, first: int, num_chunks: int) -> tuple[Piece, ...]:
        pieces = []
        index = bisect_right(self._ends, first) - 1
        while index < len(self.names) and self._ends[index] < first + num_chunks:
            begin = self._ends[index]
            start = (max(first, begin) - begin) * self.chunk
            stop = min(self.sizes[index], (first + num_chunks - begin) * self.chunk)
            if stop > start:
                place = (begin - first) * self.chunk + start
                pieces.append(Piece(self.names[index], start, stop, place))
            index += 1
        return tuple(pieces)

    def gather(self, slab: Slab, flat: Mapping[str, Floats]) -> Floats:
        """The slab's values [c, e] out of flat tensors, with zeros as padding.

        Only to be read: they are a view where the slab lies in one tensor.
        """
        if len(slab.pieces) == 1:
            (piece,) = slab.pieces
            if piece.stop - piece.start == slab.num_chunks * self.chunk:
                whole = flat[piece.name][piece.start : piece.stop]
                return whole.reshape(slab.num_chunks, self.chunk)
        values = np.zeros(slab.num_chunks * self.chunk, dtype=np.float32)
        for piece in slab.pieces:
            values[piece.span] = flat[piece.name][piece.start : piece.stop]
        return values.reshape(slab.num_chunks, self.chunk)

    def scatter(self, slab: Slab, values_ce: Floats, flat: Mapping[str, Floats]) -> None:
        """Writes the slab's values [c, e] into flat tensors; the padding is dropped."""
        values = values_ce.reshape(-1)
        for piece in slab.pieces:
            flat[piece.name][piece.start : piece.stop] = values[piece.span]

    def map(self, work: Callable[[Slab], Result]) -> list[Result]:
        """`work` on every slab, on all cores; the results in the order of the slabs."""
        return on_all_cores(work, list(self.slabs()))


def on_all_cores(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """`work` on each item; the results in the order of the items. Not to be nested."""
    if len(items) < 2:
        return [work(item) for item in items]
    return list(_threads().map(work, items))


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    """NumPy computes without holding the interpreter's lock, so threads are enough."""
    return ThreadPoolExecutor(_num_cores(), thread_name_prefix="motley-codec")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)


def _num_cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
