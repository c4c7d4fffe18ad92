"""The ends of pipelines: what a stage before some others makes of them.

For a given number m of micro-batches the time from any stage on is max(m x its own work, its work +
the time behind it), with half of what it waits for a message of the next one. Scores of all ways to
go on behind a stage are worked out at once, and the other figures for the best ones alone.

Axes: t types of blocks, s sets of units, b rank among the best, g goals, i the cut where a stage
begins, j where it ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from motley.plan.search.choices import StageChoice
from motley.plan.search.evaluate import Evaluator
from motley.plan.search.stage_arrays import NEVER, StageArrays, late

Floats = NDArray[np.float32]
"""Estimates: what is chosen is simulated in double precision."""
Indices = NDArray[np.intp]

TYPICAL_EXCHANGE = np.float32(4 / 3)
"""Weight of the gradients' exchange among three replicas, 2(n-1)/n."""

CACHED = 30_000
"""Figures of one array that are worked on at once."""

MOST_SLABS = 6
"""Into which the stages between all cuts are put: those of a slab that end before they begin, or
that do not fit, are worked out for nothing."""

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

    sets: NDArray[np.int64]
    """Units of each class (s, classes)."""
    values: Floats
    """By field and (s, b, g, i)."""
    links: Indices
    """Likewise."""


class Stages(NamedTuple):
    """Seconds of a stage in some place of the pipeline, by (t, g, i, j)."""

    forward: Floats
    backward: Floats
    exchange: Floats
    update: Floats

    def able(self) -> list[int]:
        """Types of blocks on which any such stage fits."""
        able: list[int] = np.flatnonzero(self.forward.min(axis=(1, 2, 3)) < NEVER).tolist()
        return able


class Behind(NamedTuple):
    """Of the ends of a level, by (s, g, 1, b, j): j is the cut where they begin."""

    head: Indices
    """Type of block of the first stage."""
    half_work: Floats
    """Of the first stage, for one micro-batch."""
    time: Floats
    exchanged: Floats


class Ways(NamedTuple):
    """The best ways to go on behind a stage, by (s, b, g, i)."""

    score: Floats
    code: Indices
    """The stage's type of block, then the set, rank and cut of the end that follows."""


class Ends:
    """The recurrence for the goals of one micro-batch size."""

    def __init__(
        self,
        evaluator: Evaluator,
        blocks: Sequence[int],
        arrays: StageArrays,
        goals: Goals,
        *,
        beam: int,
        levels: Sequence[float],
    ) -> None:
        """`levels` are the seconds of an exchange of all gradients with one other replica, if not
        over the block's own best link."""
        self.beam = beam
        self._stages = np.array(
            [
                [arrays.times(block, goals.micro_batch_size, count) for count, _ in goals.pairs]
                for block in blocks
            ]
        )
        """By (t, g, field, k, i, j)."""
        self._late = arrays.last
        self._shared = np.array([arrays.shared(block) for block in blocks])
        self.counts = np.array([count for count, _ in goals.pairs], np.float32)[:, None]
        self.among = np.array([among for _, among in goals.pairs])[:, None]
        self.num_cuts = len(arrays.cuts)
        self.share = arrays.share.astype(np.float32)
        typical = [evaluator.typical_exchange_seconds(block) for block in blocks]
        self.shared = np.maximum(np.array(levels)[:, None], typical).astype(np.float32)
        size = goals.micro_batch_size
        delayed = [_delayed(evaluator, block, goals) for block in blocks]
        self.undelayed = (1 - np.array(delayed)).astype(np.float32)
        one_way = [[sum(evaluator.edge_seconds(a, b, size)) for b in blocks] for a in blocks]
        self.one_way = np.array(one_way, np.float32)

    def stages(self, num_stages: int) -> Stages:
        """The first of so many stages, on each of the blocks."""
        goals = np.arange(len(self.counts))
        kept = np.minimum(self.counts[:, 0].astype(int), num_stages) - 1
        return Stages._make(np.moveaxis(self._stages[:, goals, :, kept], 2, 0).swapaxes(1, 2))

    def last(self, stages: Stages, blocks: Sequence[int]) -> tuple[Floats, Indices]:
        """Values and links of the last stage on each of the blocks, in their order."""
        kept = Stages._make(each[list(blocks)][..., -1] for each in stages)
        work = kept.forward + kept.backward
        time = self.counts * work
        share = TYPICAL_EXCHANGE * self.share[:, -1] * self.shared[:, blocks][:, :, None, None]
        late_share = self._late[:, -1]
        alone = time + late(kept.exchange, kept.backward, late_share)
        shared = time + late(kept.exchange + share, kept.backward, late_share)
        score = np.where(self.among, shared[0], alone)
        trip = work * self.undelayed[blocks][:, None, None]
        values = np.stack([score, time, alone, trip, work, work, *shared])[:, :, None]
        links = np.zeros((5, *values.shape[1:]), dtype=np.intp)
        links[BLOCK] = links[LAST] = np.array(blocks)[:, None, None, None]
        links[CUT] = self.num_cuts - 1
        return values, links

    def behind(self, level: Level) -> Behind:
        """What the ends of a level give to the scores of stages before them."""
        values = level.values
        exchanged = np.where(self.among, values[SHARED], values[ALONE])
        fields = level.links[BLOCK], values[WORK] / 2, values[TIME], exchanged
        return Behind._make(each.swapaxes(1, 2)[:, :, None].copy() for each in fields)

    def ways(self, block: int, stages: Stages, behind: Behind, sources: Indices) -> Ways:
        """To go on behind a stage on this block, with the ends of some sets."""
        own, others = self._own(block, stages), self._added(block, behind, sources)
        num_ranks = behind.time.shape[3]
        width = min(self.beam, num_ranks * self.num_cuts)
        shape = (len(sources), width, *own[0].shape[:2])
        score = np.full(shape, NEVER, np.float32)
        code = np.zeros(shape, np.intp)
        for rows, cuts in self._slabs(stages.forward[block], len(sources) * num_ranks):
            some = [each[:, rows, :, cuts] for each in own]
            chunk = max(1, CACHED // (some[0].size * num_ranks))
            for first in range(0, len(sources), chunk):
                sets = slice(first, first + chunk)
                found, place = self._best(some, [each[sets, ..., cuts] for each in others])
                best = (sets, slice(found.shape[1]), slice(None), rows)
                score[best] = found
                rank, cut = np.divmod(place, cuts.stop - cuts.start)
                code[best] = rank * self.num_cuts + cut + cuts.start
        first_codes = (block * len(behind.time) + sources) * num_ranks * self.num_cuts
        return Ways(score, code + first_codes[:, None, None, None])

    def _slabs(self, forward: Floats, num_ends: int) -> Iterator[tuple[slice, slice]]:
        """Neighbouring cuts where a stage begins, with those where it may end: behind the first of
        them, and where some stage still fits its chips."""
        count = min(MOST_SLABS, num_ends * forward.size // CACHED)
        if count < 2:
            yield slice(0, self.num_cuts), slice(0, self.num_cuts)
            return
        fits = (forward < NEVER).any(axis=0)
        furthest = np.where(fits, np.arange(self.num_cuts), 0).max(axis=1)
        bounds = np.linspace(0, self.num_cuts, count + 1).round().astype(int).tolist()
        for first, last in pairwise(bounds):
            end = int(furthest[first:last].max(initial=0))
            if end > first:
                yield slice(first, last), slice(first + 1, end + 1)

    def _own(self, block: int, stages: Stages) -> list[Floats]:
        """What the stage adds to each part of the score (g, i, b, j)."""
        forward, backward, exchange, _ = (each[block] for each in stages)
        counts, among = self.counts[:, :, None], self.among[:, :, None]
        shared = TYPICAL_EXCHANGE * among * self._shared[block]
        tail = late(exchange + shared, backward, self._late)
        work = forward + backward
        parts = [counts * work + tail, counts / 2 * work + tail, work + tail, forward]
        return [each[:, :, None, :] for each in parts]

    def _added(self, block: int, behind: Behind, sources: Indices) -> list[Floats]:
        """What the ends of some sets add to all parts but the first (s, g, i, b, j)."""
        head, half_work, time, exchanged = (each[sources] for each in behind)
        one_way = self.one_way[block][head]
        counts = self.counts[:, :, None, None]
        return [counts * (one_way + half_work), 2 * one_way + time, one_way + exchanged]

    def _best(self, own: list[Floats], behind: list[Floats]) -> tuple[Floats, Indices]:
        """The smallest scores, and their places among ranks and cuts (s, b, g, i)."""
        score = own[1] + behind[0]
        np.maximum(score, own[0], out=score)
        part = own[2] + behind[1]
        np.maximum(score, part, out=score)
        np.add(own[3], behind[2], out=part)
        np.maximum(score, part, out=score)
        if self.beam == 1:
            flat = score.reshape(-1, score.shape[3] * score.shape[4])
            first = flat.argmin(axis=1)
            shape = (score.shape[0], 1, *score.shape[1:3])
            return flat[np.arange(len(flat)), first].reshape(shape), first.reshape(shape)
        flat = score.reshape(*score.shape[:3], -1)
        best = smallest(flat, 3, self.beam)
        lowest = np.take_along_axis(flat, best, axis=3)
        return np.moveaxis(lowest, 3, 1), np.moveaxis(best, 3, 1)

    def grown(self, ways: Ways, stages: Stages, level: Level) -> tuple[Floats, Indices]:
        """Values and links of the ends to which the ways lead."""
        shape = (len(self.one_way), *level.values.shape[1:3], self.num_cuts)
        block, source, rank, cut = np.unravel_index(ways.code, shape)
        g, i = np.arange(len(self.counts))[:, None], np.arange(self.num_cuts)
        after = level.values[:, source, rank, g, cut]
        links = level.links[:, source, rank, g, cut]
        one_way = self.one_way[block, links[BLOCK]]
        forward, backward, exchange, _ = (each[block, g, i, cut] for each in stages)
        last = self._late[i, cut]
        work = forward + backward
        longest = np.maximum(work, one_way + (work + after[WORK]) / 2)
        time = np.maximum(self.counts * longest, work + 2 * one_way + after[TIME])
        ahead = forward + one_way
        shared = exchange + TYPICAL_EXCHANGE * self.share[i, cut] * self.shared[:, block]
        values = np.stack(
            [
                ways.score,
                time,
                np.maximum(time + late(exchange, backward, last), ahead + after[ALONE]),
                work * self.undelayed[block] + 2 * one_way + after[TRIP],
                np.maximum(longest, after[PERIOD]),
                work,
                *np.maximum(time + late(shared, backward, last), ahead + after[SHARED:]),
            ]
        )
        values[:, ways.score >= NEVER] = NEVER
        return values, np.stack([block, cut, source, rank, links[LAST]])


def _delayed(evaluator: Evaluator, block: int, goals: Goals) -> float:
    """The part of a stage's work that a zero-bubble schedule does while it would wait: the
    gradients of the parameters (arXiv 2401.10241)."""
    if "zero-bubble" not in evaluator.space.schedules:
        return 0.0
    whole, size = StageChoice(block, 0, evaluator.num_layers), goals.micro_batch_size
    layout = evaluator.useful_layouts(block, size, goals.pairs[0][0])[0]
    work = sum(evaluator.pass_seconds(whole, size, layout))
    return evaluator.weight_seconds(whole, size, layout) / work


def smallest(values: Floats, axis: int, count: int) -> Indices:
    """Places of the smallest values along an axis, the first of equal ones first."""
    if count == 1:
        first: Indices = np.argmin(values, axis=axis, keepdims=True)
        return first
    order = np.argsort(values, axis=axis, kind="stable")
    found: Indices = np.take(order, range(min(count, values.shape[axis])), axis=axis)
    return found
