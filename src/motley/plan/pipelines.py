"""The best pipelines of every set of units: on which blocks, in which order, with which layers.

A pipeline is built from its last stage backwards. That is where the schedule fixes how many
micro-batches a stage keeps, so memory is checked while building. For a given number m of
micro-batches the time from any stage on is max(m x its own work, its work + the time behind it);
the best few of each (units used, first layer) are kept. All sets of units with as many stages, all
first and last layers and all goals of one micro-batch size are worked out at once.

Axes: s sets of units, b rank among the best, g goals, i the cut where a stage begins, j where it
ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from motley.plan.choices import StageChoice
from motley.plan.classes import Counts
from motley.plan.evaluate import Evaluator
from motley.plan.lines import Lines
from motley.plan.stage_arrays import NEVER, StageArrays

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

TYPICAL_EXCHANGE = 4 / 3
"""Weight of the gradients' exchange among three replicas, 2(n-1)/n."""

SCORE, TIME, ALONE, SHARED, TRIP, PERIOD, WORK = range(7)
"""Of the ends of pipelines: what is made small; until the last backward; until the exchange among
the members of groups; until that with other replicas; of one micro-batch; of each further one; of
the first stage."""

BLOCK, CUT, SET, RANK, LAST = range(5)
"""Of the first stage: its type of block and the cut where it ends; which end follows; and the type
of block of the last stage."""


class Goals(NamedTuple):
    """What pipelines of one micro-batch size are built for."""

    micro_batch_size: int
    pairs: tuple[tuple[int, bool], ...]
    """Numbers of micro-batches, and whether other replicas exchange gradients too."""


class Level(NamedTuple):
    """The best ends of pipelines with as many stages."""

    sets: list[Counts]
    values: Floats
    """By field and (s, b, g, i)."""
    links: Indices
    """Likewise."""


class _Times(NamedTuple):
    """Of a stage in some place of the pipeline, by (g, i, j)."""

    forward: Floats
    backward: Floats
    exchange: Floats
    shared: Floats
    update: Floats


class PipelineSearch:
    """Finds the best pipelines for the goals of one micro-batch size."""

    def __init__(
        self,
        evaluator: Evaluator,
        totals: Counts,
        needs: Sequence[Counts],
        arrays: StageArrays,
        goals: Goals,
        *,
        beam: int,
    ) -> None:
        self.evaluator = evaluator
        self.totals = totals
        self.needs = needs
        self.arrays = arrays
        self.goals = goals
        self.beam = beam
        self.counts = np.array([count for count, _ in goals.pairs], dtype=float)[:, None, None]
        self.among = np.array([among for _, among in goals.pairs])
        self.widths = [block.num_chips for block in evaluator.blocks]
        self.types = range(len(needs))
        self._needed, self._totals = np.array(needs), np.array(totals)
        edges = np.array(
            [
                [evaluator.edge_seconds(a, b, goals.micro_batch_size) for b in self.types]
                for a in self.types
            ]
        )
        self.send, self.one_way = edges[:, :, 0], edges.sum(axis=2)
        self.levels: list[Level] = []

    def run(self, most_stages: int) -> Lines | None:
        """Works out all pipelines; their times, or None if no stage fits at all."""
        level = self._last_stages()
        while level.sets:
            self.levels.append(level)
            if len(self.levels) == most_stages:
                break
            level = self._longer(level, len(self.levels) + 1)
        if not self.levels:
            return None
        return Lines.joined([self._lines(place) for place in range(len(self.levels))])

    def _times(self, block: int, num_stages: int) -> _Times:
        """Of the first of `num_stages` stages."""
        size, parts = self.goals.micro_batch_size, []
        for count, _ in self.goals.pairs:
            times = self.arrays.of(block, size, count)
            parts.append([each[min(num_stages, count) - 1] for each in times])
        return _Times(*(np.stack(each) for each in zip(*parts, strict=True)))

    def _last_stages(self) -> Level:
        """Every block alone, up to the last cut."""
        sets, values, blocks = [], [], []
        none = tuple(0 for _ in self.totals)
        for block in self.types:
            times = self._times(block, 1)
            work = (times.forward + times.backward)[:, :, -1]
            if not self._addable(block, [none]) or work.min() >= NEVER:
                continue
            time = self.counts[:, :, 0] * work
            alone = time - times.backward[:, :, -1] + times.exchange[:, :, -1]
            shared = alone + TYPICAL_EXCHANGE * times.shared[:, :, -1]
            score = np.maximum(time, np.where(self.among[:, None], shared, alone))
            sets.append(self.needs[block])
            values.append([score, time, alone, shared, work, work, work])
            blocks.append(block)
        if not sets:
            return Level([], np.zeros(0), np.zeros(0, dtype=np.intp))
        stacked = np.moveaxis(np.array(values), 0, 1)[:, :, None]
        links = np.zeros((5, *stacked.shape[1:]), dtype=np.intp)
        links[BLOCK] = links[LAST] = np.array(blocks)[:, None, None, None]
        links[CUT] = len(self.arrays.cuts) - 1
        return Level(sets, stacked, links)

    def _addable(self, block: int, sets: Sequence[Counts]) -> list[int]:
        """The sets, by their places, that leave the units of a block; where groups cannot be mixed,
        those whose blocks have as many chips."""
        used = np.array(sets)
        able = (used + self._needed[block] <= self._totals).all(axis=1)
        if not self.evaluator.space.groups:
            others = self._needed[[width != self.widths[block] for width in self.widths]]
            able &= ~used[:, others.any(axis=0)].any(axis=1)
        places: list[int] = np.flatnonzero(able).tolist()
        return places

    def _longer(self, level: Level, num_stages: int) -> Level:
        """With one more stage before each."""
        slots: dict[Counts, int] = {}
        grown = []
        for block in self.types:
            sources = self._addable(block, level.sets)
            times = self._times(block, num_stages) if sources else None
            if times is None or times.forward.min() >= NEVER:
                continue
            sets, places = [], []
            for source in sources:
                now = tuple(
                    a + b for a, b in zip(level.sets[source], self.needs[block], strict=True)
                )
                sets.append(now)
                places.append(slots.get(now, 0))
                slots[now] = places[-1] + 1
            grown.append((sets, places, self._put_before(block, times, level, sources)))
        return self._merged(slots, grown) if slots else level._replace(sets=[])

    def _put_before(
        self, block: int, times: _Times, level: Level, sources: list[int]
    ) -> tuple[Floats, Indices]:
        """The best ends that begin with a stage on this block, before those of some sets."""
        rest, head = level.values[:, sources], level.links[BLOCK, sources]
        one_way, send = self.one_way[block][head], self.send[block][head]
        exchanged = np.where(self.among[:, None], rest[SHARED], rest[ALONE])
        own = times.exchange + TYPICAL_EXCHANGE * self.among[:, None, None] * times.shared
        work = times.forward + times.backward

        def before(each: Floats) -> Floats:
            return each[:, :, :, None, :]

        behind = work + before(2 * one_way)
        longest = np.maximum(work, (behind + before(rest[WORK])) / 2)
        np.maximum(longest, before(send), out=longest)
        behind += before(rest[TIME])
        time = np.maximum(self.counts * longest, behind)
        score = np.maximum(
            time,
            np.maximum(time + (own - times.backward), times.forward + before(one_way + exchanged)),
        )
        rank, cut = self._picked(score)
        s, g, i = (
            np.arange(count).reshape(shape)
            for count, shape in zip(
                (len(sources), score.shape[2], score.shape[3]),
                ((-1, 1, 1, 1), (1, 1, -1, 1), (1, 1, 1, -1)),
                strict=True,
            )
        )
        own = times.exchange[g, i, cut] - times.backward[g, i, cut]
        trip = work[g, i, cut] + 2 * one_way[s, rank, g, cut]
        ahead = times.forward[g, i, cut] + one_way[s, rank, g, cut]
        taken = time[s, rank, g, i, cut]
        among = TYPICAL_EXCHANGE * times.shared[g, i, cut]
        after = rest[:, s, rank, g, cut]
        values = np.stack(
            [
                score[s, rank, g, i, cut],
                taken,
                np.maximum(taken + own, ahead + after[ALONE]),
                np.maximum(taken + own + among, ahead + after[SHARED]),
                trip + after[TRIP],
                np.maximum(longest[s, rank, g, i, cut], after[PERIOD]),
                work[g, i, cut],
            ]
        )
        last = level.links[LAST, np.array(sources)[s], rank, g, cut]
        source = np.broadcast_to(np.array(sources)[s], rank.shape)
        links = np.stack([np.full_like(rank, block), cut, source, rank, last])
        return values, links

    def _picked(self, score: Floats) -> tuple[Indices, Indices]:
        """For every (s, g, i) the ranks and cuts of the best, by (s, b, g, i)."""
        flat = np.moveaxis(score, 1, 3)
        num_cuts = flat.shape[4]
        flat = flat.reshape(*flat.shape[:3], -1)
        best = _smallest(flat, 3, self.beam)
        rank, cut = np.divmod(np.moveaxis(best, 3, 1), num_cuts)
        return rank, cut

    def _merged(
        self,
        slots: dict[Counts, int],
        grown: list[tuple[list[Counts], list[int], tuple[Floats, Indices]]],
    ) -> Level:
        """The best of what leads to the same set of units."""
        sets = list(slots)
        index = {used: place for place, used in enumerate(sets)}
        num_fields, _, *shape = grown[0][2][0].shape
        widest = max(values.shape[2] for _, _, (values, _) in grown)
        shape = [len(sets), max(slots.values()), widest, *shape[1:]]
        values = np.full((num_fields, *shape), NEVER)
        links = np.zeros((5, *shape), dtype=np.intp)
        for reached, places, (value, link) in grown:
            at = np.array([index[used] for used in reached])
            values[:, at, places, : value.shape[2]] = value
            links[:, at, places, : link.shape[2]] = link
        whole = (len(sets), -1, *shape[3:])
        values = values.reshape(num_fields, *whole)
        links = links.reshape(5, *whole)
        best = _smallest(values[SCORE], 1, self.beam)[None]
        values = np.take_along_axis(values, best, axis=2)
        links = np.take_along_axis(links, best, axis=2)
        alive = np.flatnonzero(values[SCORE].min(axis=(1, 2, 3)) < NEVER)
        return Level([sets[place] for place in alive], values[:, alive], links[:, alive])

    def _lines(self, place: int) -> Lines:
        """The whole pipelines of a level."""
        level, num_stages = self.levels[place], place + 1
        values, links = level.values[..., 0], level.links[..., 0]
        s, b, g = np.nonzero(values[SCORE] < NEVER)
        time, size = values[TIME, s, b, g], self.goals.micro_batch_size
        counts = self.counts[g, 0, 0].astype(int)
        update = np.zeros((len(self.types), len(self.goals.pairs), len(self.arrays.cuts)))
        for block in np.unique(links[BLOCK, s, b, g]):
            update[block] = self._times(int(block), num_stages).update[:, 0]
        first, last = links[BLOCK, s, b, g], links[LAST, s, b, g]
        tied_s = self._tied_s[first, last] if place else np.zeros(len(s))
        return Lines(
            used=np.array(level.sets, dtype=int).reshape(-1, len(self.totals))[s],
            size=np.full(len(s), float(size)),
            most=np.where(counts < num_stages, counts * size, self.evaluator.global_batch),
            start_s=update[links[BLOCK, s, b, g], g, links[CUT, s, b, g]],
            trip_s=np.maximum(values[TRIP, s, b, g], values[PERIOD, s, b, g]),
            period_s=values[PERIOD, s, b, g],
            alone_s=tied_s + np.maximum(values[ALONE, s, b, g] - time, 0.0),
            shared_s=tied_s + np.maximum(values[SHARED, s, b, g] - time, 0.0),
            origin=np.stack([np.full_like(s, place), s, b, g], axis=1),
        )

    @cached_property
    def _tied_s(self) -> Floats:
        """Exchange of what the first layer shares with the last one, by their types of blocks.

        It can begin only when the first stage is done.
        """
        evaluator = self.evaluator
        shared = sum(group.num_parameters for group in evaluator.groups if len(group.layers) > 1)
        return np.array(
            [
                [evaluator.all_reduce_seconds(shared, (first, last)) for last in self.types]
                for first in self.types
            ]
        )

    def stages(self, origin: Sequence[int]) -> tuple[StageChoice, ...]:
        """The stages of a line, by its origin in this search."""
        return tuple(self._followed(*map(int, origin)))

    def _followed(self, place: int, s: int, b: int, g: int) -> Iterator[StageChoice]:
        cuts, begin = self.arrays.cuts, 0
        while place >= 0:
            block, end, s, b, _ = map(int, self.levels[place].links[:, s, b, g, begin])
            yield StageChoice(block, cuts[begin], cuts[end])
            begin, place = end, place - 1


def _smallest(values: Floats, axis: int, count: int) -> Indices:
    """Places of the smallest values along an axis, the first of equal ones first."""
    if count == 1:
        first: Indices = np.argmin(values, axis=axis, keepdims=True)
        return first
    order = np.argsort(values, axis=axis, kind="stable")
    found: Indices = np.take(order, range(min(count, values.shape[axis])), axis=axis)
    return found
