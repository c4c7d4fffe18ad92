"""Which units form replicas, and how many samples each replica gets.

With a time in mind, every set of units can compute some number of samples by then. A partition of
the units into replicas can reach it if these numbers add up to the global batch; partitions that
cannot reach a time near the best are never looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from motley.plan.search.classes import Counts
from motley.plan.search.levels import Levels
from motley.plan.search.lines import Lines

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Samples = NDArray[np.int32]

NUM_TIMES = 24
"""Times of a grid that are tried at once."""

NEAR = 6.0
"""Times the ideal time, up to which most splits are found."""

HOPELESS = 3000.0
"""Times the ideal time, after which the search for a time gives up."""

LOOKS_PER_PARTITION = 12


class Share(NamedTuple):
    """A pipeline, by its place among the lines, and its samples."""

    line: int
    num_samples: int


class Promise(NamedTuple):
    """Replicas, and the time that they may reach at best."""

    time_s: float
    shares: tuple[Share, ...]


class _Grid(NamedTuple):
    """What every set of units can compute by some times (sets, times), with links of a level."""

    level: int
    times: Floats
    shared: Samples
    """Beside others."""
    most: Samples
    """With any replicas, from every subset of some units (subsets, times); 0 for other subsets."""


class _Round(NamedTuple):
    """Subsets with as many units, one after the other."""

    codes: Integers
    inside: Integers
    """The sets in each that have one of its first units (-1: none)."""
    left: Integers
    """What these leave."""
    first_ways: Integers
    """Where the sets of each subset begin."""
    smaller: Integers
    """The subsets of each with one unit less."""
    first_smaller: Integers


class Partitions:
    """All ways to form replicas from the sets of units that have a pipeline."""

    def __init__(
        self,
        totals: Counts,
        lines: Lines,
        global_batch: int,
        ideal_s: float,
        levels: Levels,
    ) -> None:
        self.totals = totals
        self.global_batch = global_batch
        self.ideal_s = ideal_s
        self.levels = levels
        self._known: dict[tuple[Counts, int, bool], _Grid] = {}
        self._known_rounds: dict[Counts, list[_Round]] = {}
        self._quickest: dict[tuple[int, int, int], tuple[int, float, int]] = {}
        self._radix = np.array(
            [math.prod(t + 1 for t in totals[k + 1 :]) for k in range(len(totals))]
        )
        codes = lines.used @ self._radix
        order = np.argsort(-codes, kind="stable")
        self.lines = lines.take(order)
        self.sets, self._first = np.unique(-codes[order], return_index=True)
        self.sets = -self.sets
        self._ends = np.append(self._first[1:], len(order))

    @cached_property
    def subsets(self) -> list[Counts]:
        """Every choice of some of the units, by their codes."""
        return [tuple(counts) for counts in product(*(range(total + 1) for total in self.totals))]

    @cached_property
    def _digits(self) -> Integers:
        return np.array(self.subsets)

    def code(self, used: Counts) -> int:
        """Place among the subsets."""
        return int(np.array(used) @ self._radix)

    def of_units(self, units: Counts) -> Lines:
        """The lines over a set of units."""
        index = np.flatnonzero(self.sets == self.code(units))
        if not len(index):
            return self.lines.between(0, 0)
        return self.lines.between(int(self._first[index[0]]), int(self._ends[index[0]]))

    @cached_property
    def _ways(self) -> list[tuple[Integers, Integers]]:
        """For every subset: the sets in it that have one of its first units, and what they leave;
        the last entry leaves that unit out (its set is -1)."""
        digits = self._digits
        sets = digits[self.sets]
        found: list[tuple[Integers, Integers]] = [(np.zeros(0, int), np.zeros(0, int))]
        for code, row in enumerate(digits[1:], 1):
            first = int(np.flatnonzero(row)[0])
            inside = np.flatnonzero((sets <= row).all(axis=1) & (sets[:, first] > 0))
            left = code - self.sets[inside]
            found.append((np.append(inside, -1), np.append(left, code - int(self._radix[first]))))
        return found

    def _rounds(self, units: Counts) -> list[_Round]:
        """The subsets of some units by how many units they have."""
        found = self._known_rounds.get(units)
        if found is None:
            inside = (self._digits <= np.array(units)).all(axis=1)
            sizes = self._digits.sum(axis=1)
            found = self._known_rounds[units] = [
                self._round(np.flatnonzero(inside & (sizes == size)).tolist())
                for size in range(1, sum(units) + 1)
            ]
        return found

    def _round(self, codes: list[int]) -> _Round:
        ways = [self._ways[code] for code in codes]
        smaller = [code - self._radix[self._digits[code] > 0] for code in codes]
        return _Round(
            np.array(codes),
            np.concatenate([inside for inside, _ in ways]),
            np.concatenate([left for _, left in ways]),
            _begins([inside for inside, _ in ways]),
            np.concatenate(smaller),
            _begins(smaller),
        )

    def _grid(self, times: Floats, level: int, units: Counts) -> _Grid:
        alone, shared = (self._samples(times, each) for each in (None, level))
        most, single = np.zeros((2, len(self.subsets), len(times)), dtype=np.int32)
        single[self.sets] = alone[:-1]
        for codes, inside, left, first_ways, smaller, first_smaller in self._rounds(units):
            most[codes] = np.maximum.reduceat(shared[inside] + most[left], first_ways)
            best = np.maximum.reduceat(single[smaller], first_smaller)
            single[codes] = np.maximum(single[codes], best)
        return _Grid(level, times, shared, np.maximum(most, single))

    def _samples(self, times: Floats, level: int | None) -> Samples:
        """What each set computes by some times (sets, times), and the set of no unit."""
        best = np.maximum.reduceat(self.lines.samples(times, level), self._first)
        nothing = np.zeros((1, len(times)))
        return np.concatenate([np.minimum(best, self.global_batch), nothing]).astype(np.int32)

    def _coarse(self, units: Counts, level: int) -> _Grid:
        """Times 8 % apart near the ideal one, or if some units need longer all that may matter."""
        near = self._coarse_grid(units, level, False)
        if near.most[self.code(units), -1] >= self.global_batch:
            return near
        return self._coarse_grid(units, level, True)

    def _coarse_grid(self, units: Counts, level: int, far: bool) -> _Grid:
        key = (units, level, far)
        if key not in self._known:
            times = self.ideal_s * np.geomspace(1.0, NEAR, NUM_TIMES)
            if far:
                more = self.ideal_s * np.geomspace(NEAR, HOPELESS, 2 * NUM_TIMES)
                times = np.concatenate([times, more[1:]])
            self._known[key] = self._grid(times, level, units)
        return self._known[key]

    def earliest(self, units: Counts) -> tuple[float, float]:
        """Between which times some units may compute the batch at best; infinite if they cannot."""
        coarse = self._coarse(units, self._level(units))
        reaches = coarse.most[self.code(units)] >= self.global_batch
        if not reaches[-1]:
            return float("inf"), float("inf")
        place = int(reaches.argmax())
        before_s = coarse.times[place - 1] if place else self.ideal_s / 2
        return float(before_s), float(coarse.times[place])

    def _level(self, units: Counts) -> int:
        return int(self.levels.of(np.array([units]))[0])

    def first_times(self) -> list[tuple[float, Counts]]:
        """Of every subset that may compute the batch about when, the earliest first."""
        found = []
        own = self.levels.of(self._digits)
        for level in np.unique(own).tolist():
            grid = self._coarse_grid(self.totals, level, True)
            reaches = grid.most >= self.global_batch
            able = np.flatnonzero(reaches[:, -1] & (own == level))
            first = reaches[able].argmax(axis=1)
            found += [
                (float(grid.times[time]), self.subsets[code])
                for code, time in zip(able.tolist(), first.tolist(), strict=True)
            ]
        return sorted(found)

    def promising(
        self, units: Counts, most: int, *, near: float | None = None, longest_s: float | None = None
    ) -> list[Promise]:
        """Replicas of some units that may take no longer than `near` times the shortest, or than
        `longest_s`; the most promising first, about the `most` best."""
        code, level = self.code(units), self._level(units)
        begin, end = self.earliest(units)
        if end == float("inf"):
            return []
        longest = max(end * (near or 1.0), longest_s or 0.0)
        grid = self._grid(np.linspace(begin, longest, NUM_TIMES), level, units)
        first = int((grid.most[code] >= self.global_batch).argmax())
        last_s = longest_s or grid.times[first] * (near or 1.0)
        last = min(NUM_TIMES - 1, int(np.searchsorted(grid.times, last_s)))
        found = self._lone(code, float(grid.times[last]), most)
        for members in self._reaching(grid, code, range(first, max(first, last) + 1), most):
            total = grid.shared[list(members)]
            able = (total.sum(axis=0) >= self.global_batch) & (total.min(axis=0) > 0)
            step = int(able.argmax())
            found.append(self._promise(members, total[:, step].tolist(), level))
        return sorted(found)[:most]

    def _lone(self, code: int, longest_s: float, most: int) -> list[Promise]:
        """The fastest pipelines over some of the units that compute the whole batch alone."""
        seconds = self.lines.seconds(self.global_batch, None)
        inside = (self.lines.used <= np.array(self.subsets[code])).all(axis=1)
        able = np.flatnonzero(inside & (seconds <= longest_s))
        order = able[np.argsort(seconds[able], kind="stable")][:most]
        return [Promise(float(seconds[k]), (Share(int(k), self.global_batch),)) for k in order]

    def _reaching(
        self, grid: _Grid, code: int, steps: Sequence[int], most: int
    ) -> Iterator[tuple[int, ...]]:
        """Two replicas or more that together can compute the batch by times of the grid."""
        seen: dict[tuple[int, ...], None] = {}
        for step in steps:
            budget = [LOOKS_PER_PARTITION * most // len(steps)]
            for members in self._extended(grid, step, (), code, self.global_batch, budget):
                key = tuple(sorted(members))
                if len(key) > 1 and key not in seen:
                    seen[key] = None
                    yield key
                if len(seen) >= most:
                    return

    def _extended(
        self,
        grid: _Grid,
        step: int,
        members: tuple[int, ...],
        left: int,
        missing: int,
        budget: list[int],
    ) -> Iterator[tuple[int, ...]]:
        """The members with replicas from the units that are left, as many as are needed; the looks
        that may be taken are counted down."""
        if missing <= 0:
            yield members
            return
        inside, rest = self._ways[left]
        shared = grid.shared[inside, step]
        reach = shared + grid.most[rest, step]
        able = np.flatnonzero(reach >= missing)
        for place in able[np.argsort(-reach[able], kind="stable")].tolist():
            budget[0] -= 1
            if budget[0] < 0:
                return
            more = (int(inside[place]),) if inside[place] >= 0 else ()
            gain = int(shared[place])
            if (gain or not more) and len(members) < self.global_batch:
                yield from self._extended(
                    grid, step, members + more, int(rest[place]), missing - gain, budget
                )

    def _promise(self, members: tuple[int, ...], samples: list[int], level: int) -> Promise:
        """Gives each member what it can do by some time, less what is too much for all together."""
        excess = sum(samples) - self.global_batch
        pace = [time / share for _, time, share in self._fastest(members, samples, level)]
        while excess > 0:
            late = [each * share for each, share in zip(pace, samples, strict=True)]
            able = [place for place, share in enumerate(samples) if share > 1]
            slowest = max(able, key=lambda place: (late[place], -place))
            less = min(max(1, excess // (2 * len(samples))), samples[slowest] - 1)
            samples[slowest] -= less
            excess -= less
        fastest = list(self._fastest(members, samples, level))
        shares = tuple(Share(line, share) for line, _, share in fastest)
        return Promise(max(time for _, time, _ in fastest), shares)

    def _fastest(
        self, members: tuple[int, ...], samples: list[int], level: int
    ) -> Iterator[tuple[int, float, int]]:
        """The line of each member that computes its samples first, when, and the samples."""
        for index, share in zip(members, samples, strict=True):
            key = (index, share, level)
            found = self._quickest.get(key)
            if found is None:
                begin = int(self._first[index])
                seconds = self.lines.between(begin, int(self._ends[index])).seconds(share, level)
                best = int(seconds.argmin())
                found = self._quickest[key] = (begin + best, float(seconds[best]), share)
            yield found


def _begins(parts: Sequence[Sequence[int] | Integers]) -> Integers:
    """Where each of some parts begins when they stand one after the other."""
    lengths = [0, *map(len, parts)]
    return np.cumsum(lengths[:-1])
