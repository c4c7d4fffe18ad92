"""Pipelines of one stage: each block that holds the whole model alone.

Nothing waits for a first micro-batch there, and a long last backward hides the exchange.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from motley.plan.layout import Layout
from motley.plan.search.choices import StageChoice
from motley.plan.search.classes import BlockClasses
from motley.plan.search.effort import Effort, spread
from motley.plan.search.ends import TYPICAL_EXCHANGE
from motley.plan.search.evaluate import Evaluator
from motley.plan.search.levels import Levels
from motley.plan.search.lines import Lines
from motley.plan.search.refine import micro_batch_sizes


class SingleStages:
    """The lines of all blocks that hold the whole model, with every micro-batch size that fits."""

    def __init__(
        self,
        evaluator: Evaluator,
        classes: BlockClasses,
        layouts: Sequence[Sequence[Layout]],
        effort: Effort,
        levels: Levels,
        last_share: float,
    ) -> None:
        """`layouts` are those of each type of block; `last_share` is what of the exchange of all
        gradients begins only behind the last pass."""
        self.evaluator = evaluator
        self.classes = classes
        self.layouts = layouts
        self.effort = effort
        self.levels = levels
        self.last_share = last_share
        self.batch = evaluator.global_batch

    def lines(self, least_size: int) -> Lines:
        """`least_size`: samples of a micro-batch with which some block has work for all chips."""
        rows = []
        for block, need in enumerate(self.classes.needs):
            least = 1
            for size in self._sizes(self.classes.blocks[block].num_chips, least_size):
                found = self._layouts(block, size)
                if not found:
                    break
                for layout in found:
                    times = self._times(block, size, layout)
                    origin = (-1, block, self.layouts[block].index(layout), 0, 0)
                    grain = float(layout.data)
                    rows.append((need, float(size), grain, least, self.batch, *times, origin))
                least = size + 1
        if not rows:
            return Lines.none(len(self.classes.totals), len(self.levels.seconds))
        return Lines._make(np.array(column) for column in zip(*rows, strict=True))

    def _sizes(self, width: int, least_size: int) -> Sequence[int]:
        if self.effort.all_sizes:
            return micro_batch_sizes(self.batch)
        if self.evaluator.space.groups:
            return spread(min(least_size, width), self.batch, self.effort)
        powers = [width << power for power in range((self.batch // width).bit_length())]
        return [*powers, self.batch] if powers and powers[-1] < self.batch else powers

    def _layouts(self, block: int, size: int) -> list[Layout]:
        """Layouts in which the block holds the whole model: the fastest, or all for few splits."""
        evaluator, count = self.evaluator, -(-self.batch // size)
        stage = StageChoice(block, 0, evaluator.num_layers)
        fastest = evaluator.layout(stage, 1, size, count)
        if fastest is None or not self.effort.all_sizes:
            return [fastest] if fastest else []
        able = self.classes.blocks[block].chip.memory_bytes
        return [
            layout
            for layout in self.layouts[block]
            if evaluator.memory(stage, 1, size, layout).total_bytes <= able
        ]

    def _times(
        self, block: int, size: int, layout: Layout
    ) -> tuple[float, float, float, float, list[float]]:
        """The seconds of a line, in the order of its fields."""
        evaluator = self.evaluator
        stage = StageChoice(block, 0, evaluator.num_layers)
        forward, backward = evaluator.pass_seconds(stage, size, layout)
        own, passes = evaluator.exchange_seconds(stage, layout), forward + backward
        typical = evaluator.typical_exchange_seconds(block)
        among = [float(TYPICAL_EXCHANGE) * max(typical, each) for each in self.levels.seconds]
        alone, *shared = (
            max(each - backward, each * self.last_share)
            for each in (own, *(own + each for each in among))
        )
        return evaluator.optimizer_seconds(stage, layout), passes, passes, alone, shared
