"""The best pipelines of every set of units: on which blocks, in which order, with which layers.

A pipeline is built from its last stage backwards. That is where the schedule fixes how many
micro-batches a stage keeps, so memory is checked while building. Of all ways to build one the best
few of each (units used, first layer) are kept. All sets of units with as many stages, all first and
last layers and all goals of one micro-batch size are worked out at once (`ends`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from motley.plan.search.choices import StageChoice
from motley.plan.search.classes import Counts
from motley.plan.search.ends import (
    ALONE,
    BLOCK,
    CUT,
    LAST,
    PERIOD,
    SCORE,
    SHARED,
    TIME,
    TRIP,
    Ends,
    Goals,
    Indices,
    Level,
    Stages,
    Ways,
    smallest,
)
from motley.plan.search.evaluate import Evaluator
from motley.plan.search.lines import Lines
from motley.plan.search.stage_arrays import NEVER, StageArrays


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
        self.arrays = arrays
        self.goals = goals
        self.blocks = tuple(range(len(needs)) if blocks is None else blocks)
        self.ends = Ends(evaluator, self.blocks, arrays, goals, beam=beam, levels=levels)
        self.levels: list[Level] = []
        self._needed, self._totals = np.array(needs), np.array(totals)
        self._radix = np.cumprod([1, *(total + 1 for total in totals[:-1])])
        self._stages: list[Stages] = []

    def run(self, most_stages: int, least_stages: int = 1) -> Lines | None:
        """Works out all pipelines; the times of those with so many stages, or None if no stage
        fits at all."""
        level = self._last_stages()
        while len(level.sets):
            self.levels.append(level)
            if len(self.levels) == most_stages:
                break
            level = self._longer(level)
        if not self.levels:
            return None
        kept = range(min(least_stages, len(self.levels)) - 1, len(self.levels))
        return Lines.joined([self._lines(place) for place in kept])

    def _next_stages(self) -> Stages:
        """The times of stages before those of the levels."""
        num_stages = len(self.levels) + 1
        self._stages.append(self.ends.stages(num_stages))
        return self._stages[-1]

    def _last_stages(self) -> Level:
        """Every block alone, up to the last cut."""
        stages = self._next_stages()
        able = [block for block in stages.able() if (self._needed[block] <= self._totals).all()]
        return _alive(self._needed[able], *self.ends.last(stages, able))

    @cached_property
    def _unlike(self) -> NDArray[np.bool_]:
        """Classes of which each block must not be beside any: where groups cannot be mixed, all
        stages have as many chips."""
        widths = np.array([self.evaluator.blocks[block].num_chips for block in self.blocks])
        is_other = widths[:, None] != widths[None, :]
        if self.evaluator.space.groups:
            is_other[:] = False
        unlike: NDArray[np.bool_] = is_other @ (self._needed > 0)
        return unlike

    def _addable(self, block: int, sets: NDArray[np.int64]) -> Indices:
        """The sets, by their places, before which the block can stand with units that are left."""
        able = (sets + self._needed[block] <= self._totals).all(axis=1)
        able &= ~sets[:, self._unlike[block]].any(axis=1)
        return np.flatnonzero(able)

    def _longer(self, level: Level) -> Level:
        """With one more stage before each."""
        stages, grown = self._next_stages(), list[tuple[NDArray[np.int64], Ways]]()
        behind = self.ends.behind(level)
        for block in stages.able():
            sources = self._addable(block, level.sets)
            if len(sources):
                ways = self.ends.ways(block, stages, behind, sources)
                grown.append((level.sets[sources] + self._needed[block], ways))
        if not grown:
            return level._replace(sets=level.sets[:0])
        sets, ways = self._merged(grown)
        return _alive(sets, *self.ends.grown(ways, stages, level))

    def _merged(
        self, grown: Sequence[tuple[NDArray[np.int64], Ways]]
    ) -> tuple[NDArray[np.int64], Ways]:
        """The best of the ways to the same set of units."""
        codes = [sets @ self._radix for sets, _ in grown]
        known, first = np.unique(np.concatenate(codes), return_index=True)
        widest = max(ways.score.shape[1] for _, ways in grown)
        shape = (len(known), len(grown), widest, *grown[0][1].score.shape[2:])
        score, code = np.full(shape, NEVER, np.float32), np.zeros(shape, dtype=np.intp)
        for slot, (own, (_, ways)) in enumerate(zip(codes, grown, strict=True)):
            places, width = np.searchsorted(known, own), ways.score.shape[1]
            score[places, slot, :width] = ways.score
            code[places, slot, :width] = ways.code
        whole = (len(known), -1, *shape[3:])
        score, code = score.reshape(whole), code.reshape(whole)
        best = smallest(score, 1, self.ends.beam)
        taken = Ways(*(np.take_along_axis(each, best, axis=1) for each in (score, code)))
        return np.concatenate([sets for sets, _ in grown])[first], taken

    def _lines(self, place: int) -> Lines:
        """The whole pipelines of a level."""
        level, num_stages = self.levels[place], place + 1
        values, links = level.values[..., 0], level.links[..., 0]
        s, b, g = np.nonzero(values[SCORE] < NEVER)
        size = self.goals.micro_batch_size
        figures = values[:, s, b, g].astype(float)
        time, trip, period = figures[TIME], figures[TRIP], figures[PERIOD]
        counts = self.ends.counts[g, 0].astype(int)
        first, last = links[BLOCK, s, b, g], links[LAST, s, b, g]
        trip = trip + (1 - self.ends.undelayed[first]) * period
        tied_s = self._tied_s[first, last] if place else np.zeros(len(s))
        return Lines(
            used=level.sets[s],
            size=np.full(len(s), float(size)),
            grain=np.ones(len(s)),
            least=np.full(len(s), self.goals.least),
            most=np.where(counts < num_stages, counts * size, self.evaluator.global_batch),
            start_s=self._stages[place].update[first, g, 0, links[CUT, s, b, g]].astype(float),
            trip_s=np.maximum(trip, period),
            period_s=period,
            alone_s=tied_s + np.maximum(figures[ALONE] - time, 0.0),
            shared_s=tied_s[:, None] + np.maximum(figures[SHARED:] - time, 0.0).T,
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


def _alive(sets: NDArray[np.int64], values: NDArray[np.float32], links: Indices) -> Level:
    """The level without sets that have no end."""
    alive = np.flatnonzero(values[SCORE].min(axis=(1, 2, 3)) < NEVER)
    return Level(sets[alive], values[:, alive], links[:, alive])
