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

from motley.plan.search.choices import StageChoice
from motley.plan.search.classes import Counts
from motley.plan.search.evaluate import Evaluator
from motley.plan.search.lines import Lines
from motley.plan.search.stage_arrays import NEVER, StageArrays, late

Floats = NDArray[np.float32]
"""Estimates: what is chosen is simulated in double precision."""
Indices = NDArray[np.intp]

TYPICAL_EXCHANGE = np.float32(4 / 3)
"""Weight of the gradients' exchange among three replicas, 2(n-1)/n."""

CACHED = 60_000
"""Figures of one array that are worked on at once."""

SCORE, TIME, ALONE, TRIP, PERIOD, WORK, SHARED = range(7)
"""Of the ends of pipelines: what is made small; until the last backward; until the exchange among
the members of groups; of one micro-batch, in the schedule with the least waiting; of each further
one; of the first stage; until the exchange with other replicas, over links of the first level, and
then of each other one."""

BLOCK, CUT, SET, RANK, LAST = range(5)
"""Of the first stage: its type of block and the cut where it ends; which end follows; and the type
of block of the last stage."""


class Goals(NamedTuple):
    """What pipelines of one micro-batch size are built for."""

    micro_batch_size: int
    pairs: tuple[tuple[int, bool], ...]
    """Numbers of micro-batches, and whether other replicas exchange gradients too."""
    least: int = 1
    """Samples that do not fit into one of the next smaller size."""


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
    last: Floats


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
        blocks: Sequence[int] | None = None,
        levels: Sequence[float] = (0.0,),
    ) -> None:
        """`needs` are the units of each type of block; `blocks` are the evaluator's, if not all.

        `levels` are the seconds of an exchange of all gradients with one other replica, if not over
        the block's own best link.
        """
        self.evaluator = evaluator
        self.totals = totals
        self.needs = needs
        self.arrays = arrays
        self.goals = goals
        self.beam = beam
        self.counts = np.array([count for count, _ in goals.pairs], np.float32)[:, None, None]
        self.among = np.array([among for _, among in goals.pairs])
        self.blocks = tuple(range(len(needs)) if blocks is None else blocks)
        self.widths = [evaluator.blocks[block].num_chips for block in self.blocks]
        self.types = range(len(needs))
        typical = [evaluator.typical_exchange_seconds(block) for block in self.blocks]
        self.shared = np.maximum(np.array(levels)[:, None], typical).astype(np.float32)
        self.share = arrays.share.astype(np.float32)
        self.delayed = np.array([self._delayed(block) for block in self.blocks], np.float32)
        self._needed, self._totals = np.array(needs), np.array(totals)
        self._radix = np.cumprod([1, *(total + 1 for total in totals[:-1])])
        edges = np.array(
            [
                [evaluator.edge_seconds(a, b, goals.micro_batch_size) for b in self.blocks]
                for a in self.blocks
            ],
            dtype=np.float32,
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

    def _delayed(self, block: int) -> float:
        """The part of a stage's work that a zero-bubble schedule does while it would wait: the
        gradients of the parameters (arXiv 2401.10241)."""
        evaluator, size = self.evaluator, self.goals.micro_batch_size
        if "zero-bubble" not in evaluator.space.schedules:
            return 0.0
        whole = StageChoice(block, 0, evaluator.num_layers)
        layout = evaluator.useful_layouts(block, size, self.goals.pairs[0][0])[0]
        work = sum(evaluator.pass_seconds(whole, size, layout))
        return evaluator.weight_seconds(whole, size, layout) / work

    def _times(self, block: int, num_stages: int) -> _Times:
        """Of the first of `num_stages` stages."""
        size, parts = self.goals.micro_batch_size, []
        for count, _ in self.goals.pairs:
            times = self.arrays.of(self.blocks[block], size, count)
            parts.append([each[min(num_stages, count) - 1] for each in times])
        return _Times(*(np.stack(each).astype(np.float32) for each in zip(*parts, strict=True)))

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
            tails = [0.0, *(TYPICAL_EXCHANGE * each * self.share for each in self.shared[:, block])]
            alone, *shared = (
                time + late(times.exchange + each, times.backward, times.last)[:, :, -1]
                for each in tails
            )
            score = np.maximum(time, np.where(self.among[:, None], shared[0], alone))
            sets.append(self.needs[block])
            trip = work * (1 - self.delayed[block])
            values.append([score, time, alone, trip, work, work, *shared])
            blocks.append(block)
        if not sets:
            return Level([], np.zeros(0, np.float32), np.zeros(0, dtype=np.intp))
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
        grown: list[tuple[Indices, Floats, Indices]] = []
        used = np.array(level.sets)
        for block in self.types:
            sources = self._addable(block, level.sets)
            times = self._times(block, num_stages) if sources else None
            if times is None or times.forward.min() >= NEVER:
                continue
            values, links = self._in_chunks(block, times, level, sources)
            grown.append((used[sources] + self._needed[block], values, links))
        return self._merged(grown) if grown else level._replace(sets=[])

    def _in_chunks(
        self, block: int, times: _Times, level: Level, sources: list[int]
    ) -> tuple[Floats, Indices]:
        """`_put_before` with as many sets at once as a processor's cache holds."""
        each = level.values.shape[2] * times.forward.size
        chunk = max(1, CACHED // each)
        parts = [
            self._put_before(block, times, level, sources[first : first + chunk])
            for first in range(0, len(sources), chunk)
        ]
        values, links = zip(*parts, strict=True)
        return np.concatenate(values, axis=1), np.concatenate(links, axis=1)

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
            np.maximum(
                time + late(own, times.backward, times.last),
                times.forward + before(one_way + exchanged),
            ),
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
        own, backward = times.exchange[g, i, cut], times.backward[g, i, cut]
        last = times.last[g, i, cut]
        trip = work[g, i, cut] * (1 - self.delayed[block]) + 2 * one_way[s, rank, g, cut]
        ahead = times.forward[g, i, cut] + one_way[s, rank, g, cut]
        taken = time[s, rank, g, i, cut]
        among = TYPICAL_EXCHANGE * self.share[i, cut]
        after = rest[:, s, rank, g, cut]
        values = np.stack(
            [
                score[s, rank, g, i, cut],
                taken,
                np.maximum(taken + late(own, backward, last), ahead + after[ALONE]),
                trip + after[TRIP],
                np.maximum(longest[s, rank, g, i, cut], after[PERIOD]),
                work[g, i, cut],
                *(
                    np.maximum(taken + late(own + among * each, backward, last), ahead + later)
                    for each, later in zip(self.shared[:, block], after[SHARED:], strict=True)
                ),
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

    def _merged(self, grown: list[tuple[Indices, Floats, Indices]]) -> Level:
        """The best of what leads to the same set of units."""
        num_fields, _, *rest = grown[0][1].shape
        widest = max(values.shape[2] for _, values, _ in grown)
        codes = [used @ self._radix for used, _, _ in grown]
        known, first = np.unique(np.concatenate(codes), return_index=True)
        sets = np.concatenate([used for used, _, _ in grown])[first]
        filled = np.zeros(len(known), dtype=np.intp)
        places = []
        for code in codes:
            at = np.searchsorted(known, code)
            places.append((at, filled[at]))
            filled[at] += 1
        shape = (len(known), int(filled.max()), widest, *rest[1:])
        values = np.full((num_fields, *shape), NEVER, np.float32)
        links = np.zeros((5, *shape), dtype=np.intp)
        for (at, slot), (_, value, link) in zip(places, grown, strict=True):
            values[:, at, slot, : value.shape[2]] = value
            links[:, at, slot, : link.shape[2]] = link
        whole = (len(known), -1, *rest[1:])
        values = values.reshape(num_fields, *whole)
        links = links.reshape(5, *whole)
        best = _smallest(values[SCORE], 1, self.beam)[None]
        values = np.take_along_axis(values, best, axis=2)
        links = np.take_along_axis(links, best, axis=2)
        alive = np.flatnonzero(values[SCORE].min(axis=(1, 2, 3)) < NEVER)
        return Level(
            [tuple(each) for each in sets[alive].tolist()], values[:, alive], links[:, alive]
        )

    def _lines(self, place: int) -> Lines:
        """The whole pipelines of a level."""
        level, num_stages = self.levels[place], place + 1
        values, links = level.values[..., 0], level.links[..., 0]
        s, b, g = np.nonzero(values[SCORE] < NEVER)
        size = self.goals.micro_batch_size
        _, time, alone, trip, period, _, *shared = values[:, s, b, g].astype(float)
        counts = self.counts[g, 0, 0].astype(int)
        update = np.zeros((len(self.types), len(self.goals.pairs), len(self.arrays.cuts)))
        for block in np.unique(links[BLOCK, s, b, g]):
            update[block] = self._times(int(block), num_stages).update[:, 0]
        first, last = links[BLOCK, s, b, g], links[LAST, s, b, g]
        trip = trip + self.delayed[first] * period
        tied_s = self._tied_s[first, last] if place else np.zeros(len(s))
        return Lines(
            used=np.array(level.sets, dtype=int).reshape(-1, len(self.totals))[s],
            size=np.full(len(s), float(size)),
            grain=np.ones(len(s)),
            least=np.full(len(s), self.goals.least),
            most=np.where(counts < num_stages, counts * size, self.evaluator.global_batch),
            start_s=update[links[BLOCK, s, b, g], g, links[CUT, s, b, g]],
            trip_s=np.maximum(trip, period),
            period_s=period,
            alone_s=tied_s + np.maximum(alone - time, 0.0),
            shared_s=np.stack([tied_s + np.maximum(each - time, 0.0) for each in shared], axis=1),
            origin=np.stack([np.full_like(s, place), s, b, g], axis=1),
        )

    @cached_property
    def _tied_s(self) -> NDArray[np.float64]:
        """Exchange of what the first layer shares with the last one, by their types of blocks.

        It can begin only when the first stage is done.
        """
        evaluator = self.evaluator
        shared = sum(group.num_parameters for group in evaluator.groups if len(group.layers) > 1)
        return np.array(
            [
                [evaluator.all_reduce_seconds(shared, (first, last)) for last in self.blocks]
                for first in self.blocks
            ]
        )

    def stages(self, origin: Sequence[int]) -> tuple[StageChoice, ...]:
        """The stages of a line, by its origin in this search."""
        return tuple(self._followed(*map(int, origin)))

    def _followed(self, place: int, s: int, b: int, g: int) -> Iterator[StageChoice]:
        cuts, begin = self.arrays.cuts, 0
        while place >= 0:
            block, end, s, b, _ = map(int, self.levels[place].links[:, s, b, g, begin])
            yield StageChoice(self.blocks[block], cuts[begin], cuts[end])
            begin, place = end, place - 1


def _smallest(values: Floats, axis: int, count: int) -> Indices:
    """Places of the smallest values along an axis, the first of equal ones first."""
    if count == 1:
        first: Indices = np.argmin(values, axis=axis, keepdims=True)
        return first
    order = np.argsort(values, axis=axis, kind="stable")
    found: Indices = np.take(order, range(min(count, values.shape[axis])), axis=axis)
    return found
