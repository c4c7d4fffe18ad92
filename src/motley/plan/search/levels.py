"""How slow the links are over which the replicas of a split exchange gradients.

All replicas wait for the slowest link between any two of them. So how long a replica may compute
depends on who else takes part: units in one node have fast links, those of all sites the slowest.
A level is a time for that exchange, and each set of units has the level of its slowest link.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

from motley.plan.search.choices import StageChoice
from motley.plan.search.classes import BlockClasses, Counts
from motley.plan.search.evaluate import Evaluator

ALIKE = 1.15
"""Times that differ by less are one level."""

MOST_LEVELS = 4


class Levels:
    """The levels between the units of some classes."""

    def __init__(self, evaluator: Evaluator, classes: BlockClasses) -> None:
        self.totals = classes.totals
        pairs = _pairs(evaluator, classes)
        self.seconds = _levels(pairs)
        """Of an exchange of all gradients between two replicas; the first level is that of links
        inside nodes, where it depends on the blocks."""
        places = np.minimum(
            np.searchsorted(self.seconds, pairs / ALIKE, side="left"), len(self.seconds) - 1
        )
        self._level = np.where(pairs > 0, np.maximum(places, 0), 0)

    def of(self, sets: NDArray[np.int64]) -> NDArray[np.int64]:
        """The level of each set of units, given as counts by class (sets, classes)."""
        level = np.zeros(len(sets), np.int64)
        for first, second in combinations_with_replacement(range(len(self.totals)), 2):
            both = (sets[:, first] > 0) & (sets[:, second] > (first == second))
            level[both] = np.maximum(level[both], self._level[first, second])
        return level

    def neighbourhoods(self) -> list[Counts]:
        """The largest sets of units without slower links, for every level, the widest first."""
        found: dict[Counts, None] = {}
        for level in range(len(self.seconds) - 1, -1, -1):
            near = self._level <= level
            for first, total in enumerate(self.totals):
                counts = [0] * len(self.totals)
                counts[first] = total if near[first, first] else 1
                for other in np.argsort(self._level[first], kind="stable").tolist():
                    held = [place for place, count in enumerate(counts) if count]
                    if other != first and near[other, held].all():
                        counts[other] = self.totals[other] if near[other, other] else 1
                found[tuple(counts)] = None
        return list(found)


def _pairs(evaluator: Evaluator, classes: BlockClasses) -> NDArray[np.float64]:
    """Seconds of an exchange between two units of every two classes; 0 inside a node."""
    whole = evaluator.parameters(StageChoice(0, 0, evaluator.num_layers))
    singles = [_single(classes.needs, place) for place in range(len(classes.totals))]
    pairs = np.zeros((len(singles), len(singles)))
    for first, second in combinations_with_replacement(range(len(singles)), 2):
        if classes.apart(first, second):
            blocks = (singles[first], singles[second])
            seconds = evaluator.all_reduce_seconds(whole, blocks)
            pairs[first, second] = pairs[second, first] = seconds
    return pairs


def _single(needs: Sequence[Counts], place: int) -> int:
    """The type of block that is one unit of a class."""
    return next(index for index, each in enumerate(needs) if sum(each) == each[place] == 1)


def _levels(pairs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The first level, and times of which each stands for those up to a little more."""
    levels = [0.0]
    for seconds in np.unique(pairs[pairs > 0]).tolist():
        if seconds > levels[-1] * ALIKE:
            levels.append(seconds)
    if len(levels) > MOST_LEVELS:
        kept = np.linspace(1, len(levels) - 1, MOST_LEVELS - 1).round().astype(int)
        levels = [0.0, *(levels[place] for place in kept)]
    return np.array(levels)
