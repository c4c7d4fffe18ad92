"""Times of all stages of a block at once: arrays over the cuts where they begin (i) and end (j).

An entry is `NEVER` where the stage does not fit its chips or where j is not behind i.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from motley.plan.choices import StageChoice
from motley.plan.evaluate import Evaluator
from motley.plan.layout import Layout
from motley.plan.sync import all_reduce_seconds

if TYPE_CHECKING:
    from motley.plan.pipelines import Goals

Floats = NDArray[np.float64]

NEVER = 1e30
"""Seconds that no stage takes; unlike infinity they can be subtracted."""


class StageTimes(NamedTuple):
    """Seconds by goal and cuts (g, i, j), or of one goal (i, j)."""

    forward: Floats
    backward: Floats
    own_exchange: Floats
    """Of the gradients among the members of the group."""
    shared_exchange: Floats
    """Of the gradients with one other replica."""


class StageArrays:
    """The stage times of one evaluator, for stages that begin and end at some cuts."""

    def __init__(self, evaluator: Evaluator, cuts: tuple[int, ...]) -> None:
        self.evaluator = evaluator
        self.cuts = cuts
        self._times: dict[tuple[int, int, int, int], StageTimes] = {}
        self._of_goals: dict[tuple[int, int, Goals], StageTimes] = {}
        self._parameters = self._held_parameters()

    def of_goals(self, block: int, num_stages: int, goals: Goals) -> StageTimes:
        """Of the first of `num_stages` stages, for every goal (g, i, j)."""
        key = (block, num_stages, goals)
        found = self._of_goals.get(key)
        if found is None:
            each = [
                self._of(block, min(num_stages, count), goals.micro_batch_size, count)
                for count, _ in goals.pairs
            ]
            stacked = (np.stack(parts) for parts in zip(*each, strict=True))
            found = self._of_goals[key] = StageTimes(*stacked)
        return found

    def _of(self, block: int, kept: int, size: int, count: int) -> StageTimes:
        weight = self.evaluator.count_weight(block, count)
        key = (block, kept, size, weight)
        found = self._times.get(key)
        if found is None:
            found = self._times[key] = self._work_out(block, kept, size, weight)
        return found

    def _work_out(self, block: int, kept: int, size: int, count: int) -> StageTimes:
        num_cuts = len(self.cuts)
        times = StageTimes(*(np.full((num_cuts, num_cuts), NEVER) for _ in range(4)))
        left = np.triu(np.ones((num_cuts, num_cuts), dtype=bool), 1)
        for layout in self.evaluator.useful_layouts(block, kept, size, count):
            now = left & self._fitting(block, kept, size, layout)
            if now.any():
                for into, value in zip(times, self._laid(block, size, layout), strict=True):
                    into[now] = value[now]
                left &= ~now
            if not left.any():
                break
        return times

    def _laid(self, block: int, size: int, layout: Layout) -> StageTimes:
        """All stages in one layout, fitting or not."""
        evaluator, cuts = self.evaluator, list(self.cuts)
        sums = evaluator.running_sums(block, size, layout)
        forward, backward = (np.array(each)[cuts] for each in (sums.forward, sums.backward))
        whole = StageChoice(block, 0, evaluator.num_layers)
        own = evaluator.exchange_seconds(whole, layout)
        share = self._parameters / self._parameters[0, -1]
        best = min(
            all_reduce_seconds(self._parameters[0, -1], (block, other), evaluator.link)
            for other in range(len(evaluator.blocks))
        )
        return StageTimes(
            forward[None, :] - forward[:, None],
            backward[None, :] - backward[:, None],
            own * share,
            best * share,
        )

    def _fitting(self, block: int, kept: int, size: int, layout: Layout) -> NDArray[np.bool_]:
        """Which stages (i, j) fit. More layers never need less: only the border is looked for."""
        evaluator, cuts = self.evaluator, self.cuts
        available = evaluator.blocks[block].chip.memory_bytes
        num_cuts = len(cuts)
        fits = np.zeros((num_cuts, num_cuts), dtype=bool)

        def fit(begin: int, end: int) -> bool:
            stage = StageChoice(block, cuts[begin], cuts[end])
            return evaluator.memory(stage, kept, size, layout).total_bytes <= available

        if fit(0, num_cuts - 1):
            fits[:, :] = True
            return fits
        begin = 0
        for end in range(1, num_cuts):
            while begin < end and not fit(begin, end):
                begin += 1
            fits[begin:end, end] = True
        return fits

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
