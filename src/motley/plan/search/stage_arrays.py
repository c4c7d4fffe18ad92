"""Times of all stages of a block at once: arrays over the cuts where they begin (i) and end (j).

An entry is `NEVER` where the stage does not fit its chips or where j is not behind i. The first
axis (k) is the number of micro-batches that the stage keeps, from 1 on.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from motley.plan.layout import Layout
from motley.plan.search.choices import StageChoice
from motley.plan.search.cut_table import CutTable
from motley.plan.search.evaluate import Evaluator

Singles = NDArray[np.float32]

NEVER = 1e30
"""Seconds that no stage takes; unlike infinity they can be subtracted."""


class StageTimes(NamedTuple):
    """Seconds of one micro-batch, and of what comes once a step (..., i, j)."""

    forward: Singles
    backward: Singles
    exchange: Singles
    """Of the gradients among the members of the group."""
    update: Singles
    """Of the optimizer."""


def late(exchange: Singles, backward: Singles, last: Singles) -> Singles:
    """How much longer than its last backward a stage's exchange takes, which begins under it; of
    what is complete only at the end nothing is hidden."""
    seconds: Singles = np.maximum(exchange - backward, exchange * last)
    return seconds


class StageArrays:
    """The stage times of one evaluator, for stages that begin and end at some cuts."""

    def __init__(self, evaluator: Evaluator, cuts: tuple[int, ...], most_kept: int) -> None:
        self.evaluator = evaluator
        self.cuts = cuts
        self._cuts = np.array(cuts)
        self.kept = np.arange(1.0, most_kept + 1)
        known = evaluator.memo.cuts.get(cuts)
        table = known or evaluator.memo.cuts.setdefault(cuts, CutTable.of(evaluator, cuts))
        self._table = table
        self.needs, self.share, self.last = table.needs, table.share, table.last
        self._times: dict[tuple[int, int, int], Singles] = {}

    @property
    def last_share(self) -> float:
        """Of the whole model's exchange, what begins only when all gradients are complete."""
        return float(self.last[0, -1])

    def shared(self, block: int) -> Singles:
        """Seconds of the exchange of each stage's gradients (i, j) with one other replica."""
        return (self.evaluator.typical_exchange_seconds(block) * self.share).astype(np.float32)

    def keeping(self, block: int, size: int, count: int, most_kept: int) -> StageTimes:
        """Of stages that keep so many micro-batches of `size` samples, or all of about `count`."""
        return StageTimes(*self.times(block, size, count)[:, min(most_kept, count) - 1])

    def times(self, block: int, size: int, count: int) -> Singles:
        """The fields of `StageTimes` by the micro-batches that a stage keeps (fields, k, i, j)."""
        key = (block, size, self.evaluator.count_weight(block, count))
        found = self._times.get(key)
        if found is None:
            found = self._times[key] = self._work_out(*key)
        return found

    def _work_out(self, block: int, size: int, count: int) -> Singles:
        """Every stage in the first of the block's layouts that fits."""
        available = self.evaluator.blocks[block].chip.memory_bytes
        shape = (len(self.kept), len(self.needs.typical[0]))
        times = np.full((len(StageTimes._fields), *shape), NEVER, np.float32)
        left = np.ones(shape, dtype=bool)
        for layout in self.evaluator.useful_layouts(block, size, count):
            needs = self.needs.of(self.evaluator, block, size, layout).total(self.kept)
            able = left & (needs <= available)
            np.copyto(times, self._laid(block, size, layout)[:, None], where=able)
            left &= ~able
            if not left.any():
                break
        found = times[:, :, self.needs.kinds]
        found[:, :, ~self._table.is_stage] = NEVER
        return found

    def _laid(self, block: int, size: int, layout: Layout) -> Singles:
        """One stage of each kind in one layout, fitting or not: the fields, by kind."""
        evaluator, (i, j) = self.evaluator, self.needs.typical
        sums = evaluator.running_sums(block, size, layout)
        forward, backward = (np.array(each)[self._cuts] for each in (sums.forward, sums.backward))
        whole = StageChoice(block, 0, evaluator.num_layers)
        share = self.share[i, j]
        fields = StageTimes(
            forward=forward[j] - forward[i],
            backward=backward[j] - backward[i],
            exchange=evaluator.exchange_seconds(whole, layout) * share,
            update=evaluator.optimizer_seconds(whole, layout) * share,
        )
        return np.array(fields, np.float32)


class ArraysByCuts:
    """The arrays of one evaluator, each worked out once."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self._known: dict[tuple[int, ...], StageArrays] = {}

    def between(self, cuts: tuple[int, ...], most_kept: int) -> StageArrays:
        """For stages that keep so many micro-batches, or more."""
        found = self._known.get(cuts)
        if found is None or len(found.kept) < most_kept:
            found = self._known[cuts] = StageArrays(self.evaluator, cuts, most_kept)
        return found
