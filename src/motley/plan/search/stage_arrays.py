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
from motley.plan.search.evaluate import Evaluator
from motley.plan.search.stage_memory_arrays import NeedsTable
from motley.plan.timing.sync import BUCKET_BYTES, GRADIENT_BYTES

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

NEVER = 1e30
"""Seconds that no stage takes; unlike infinity they can be subtracted."""


class StageTimes(NamedTuple):
    """Seconds of one micro-batch, and of what comes once a step (i, j)."""

    forward: Singles
    backward: Singles
    exchange: Singles
    """Of the gradients among the members of the group."""
    shared: Singles
    """Of the gradients with one other replica."""
    update: Singles
    """Of the optimizer."""
    last: Singles
    """The part of an exchange that begins only when the last gradients are complete."""


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
        known = evaluator.memo.needs.get(cuts)
        self.needs = known or evaluator.memo.needs.setdefault(cuts, NeedsTable(evaluator, cuts))
        self._times: dict[tuple[int, int, int], Singles] = {}
        self._behind = np.triu(np.ones((len(cuts), len(cuts)), dtype=bool), 1)
        held = self._held_parameters()
        self.share = held / held[0, -1]
        """Of all parameters, those that each stage (i, j) holds."""
        self._last = np.minimum(self._last_buckets()[:, None] / np.maximum(held, 1.0), 1.0)

    @property
    def last_share(self) -> float:
        """Of the whole model's exchange, what begins only when all gradients are complete."""
        return float(self._last[0, -1])

    def keeping(self, block: int, size: int, count: int, most_kept: int) -> StageTimes:
        """Of stages that keep so many micro-batches of `size` samples, or all of about `count`."""
        key = (block, size, self.evaluator.count_weight(block, count))
        found = self._times.get(key)
        if found is None:
            found = self._times[key] = self._work_out(*key)
        return StageTimes(*found[:, min(most_kept, count) - 1])

    def _work_out(self, block: int, size: int, count: int) -> Singles:
        """Every stage in the first of the block's layouts that fits: the fields, by (k, i, j)."""
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
        found[:, :, ~self._behind] = NEVER
        found[-1] = np.where(found[0] < NEVER, self._last, 0.0)
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
            shared=evaluator.typical_exchange_seconds(block) * share,
            update=evaluator.optimizer_seconds(whole, layout) * share,
            last=np.zeros_like(share),
        )
        return np.array(fields, np.float32)

    def _held_parameters(self) -> Floats:
        """Parameters of every stage (i, j); one that two of its layers share counts once."""
        num_cuts = len(self.cuts)
        held = np.zeros((num_cuts, num_cuts))
        for group in self.evaluator.groups:
            first = np.searchsorted(self.cuts, group.layers, side="right") - 1
            has = np.zeros((num_cuts, num_cuts), dtype=bool)
            for place in first:
                has[: place + 1, place + 1 :] = True
            held += has * group.num_parameters
        return held

    def _last_buckets(self) -> Floats:
        """Parameters that a stage exchanges last, by the cut where it begins (i)."""
        groups = sorted(self.evaluator.groups, key=lambda group: min(group.layers))
        last = np.zeros(len(self.cuts))
        for place, first in enumerate(self.cuts[:-1]):
            for group in groups:
                if max(group.layers) < first:
                    continue
                total = last[place] + group.num_parameters
                if last[place] and total * GRADIENT_BYTES > BUCKET_BYTES:
                    break
                last[place] = total
        return last
