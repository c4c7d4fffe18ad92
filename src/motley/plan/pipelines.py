"""The best pipelines of every set of blocks: which, in which order, with which layers.

A pipeline is built from its last stage backwards. That is where the schedule fixes how many
micro-batches a stage keeps, so memory is checked exactly while building. For a given number m of
micro-batches the time from any stage on is max(m x its own work, its work + the time behind it);
the best few of each (blocks used, first layer) are kept. All first and last layers, and all goals
of one micro-batch size, are worked out at once as arrays.

Axes: g goals, i the cut where a stage begins, j the cut where it ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from motley.plan.choices import StageChoice
from motley.plan.classes import BlockClasses, Counts
from motley.plan.evaluate import Evaluator
from motley.plan.stage_arrays import NEVER, StageArrays

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


class Goals(NamedTuple):
    """What pipelines of one micro-batch size are built for: every count with every weight."""

    micro_batch_size: int
    counts: tuple[int, ...]
    """Numbers of micro-batches."""
    exchange: tuple[float, ...]
    """Weights of the gradients' exchange between replicas, 2(n-1)/n for n; 0 leaves it out."""

    @property
    def pairs(self) -> list[tuple[int, float]]:
        return [(count, weight) for count in self.counts for weight in self.exchange]


class Pipeline(NamedTuple):
    """A whole pipeline, and what it takes for `num_micro_batches`."""

    stages: tuple[StageChoice, ...]
    num_micro_batches: int
    time_s: float
    """From the first forward to the end of the last backward."""
    exchanged_s: float
    """From the same moment to the end of the exchange of its gradients."""


@dataclass(frozen=True)
class _Tails:
    """The best ends of pipelines over one set of blocks, by goal and first cut (g, i)."""

    score: Floats
    time_s: Floats
    exchanged_s: Floats
    work_s: Floats
    """Of the first of the stages."""
    block: Indices
    """The class of the first stage's block."""
    cut: Indices
    """Where the first stage ends."""
    rest: Indices
    """Which of the rest's tails follows."""

    def better_of(self, other: _Tails) -> _Tails:
        """Element by element the one with the lower score; the first of equal ones."""
        take = other.score < self.score
        return _Tails(*(np.where(take, b, a) for a, b in zip(self._all, other._all, strict=True)))

    @cached_property
    def _all(self) -> tuple[NDArray[np.generic], ...]:
        return (
            self.score, self.time_s, self.exchanged_s, self.work_s, self.block, self.cut, self.rest,
        )  # fmt: skip


class PipelineSearch:
    """Finds the best pipelines for the goals of one micro-batch size."""

    def __init__(
        self,
        evaluator: Evaluator,
        classes: BlockClasses,
        arrays: StageArrays,
        goals: Goals,
        *,
        beam: int,
    ) -> None:
        self.beam = beam
        self.merges_heads = classes.uniform and beam == 1
        self.classes = classes
        self.arrays = arrays
        self.goals = goals
        pairs = goals.pairs
        self.counts = np.array([count for count, _ in pairs], dtype=float)[:, None, None]
        self.weights = np.array([weight for _, weight in pairs])[:, None, None]
        size = goals.micro_batch_size
        places = range(len(classes.totals))
        self.messages = [
            [evaluator.edge_seconds(first, second, size) for second in places] for first in places
        ]
        self.most_stages = min(sum(classes.totals), len(arrays.cuts) - 1)
        self.equal_widths = not evaluator.space.groups
        self._found: dict[Counts, list[_Tails]] = {}

    def run(self) -> Iterator[tuple[Counts, Pipeline]]:
        """Whole pipelines with the blocks they use."""
        none: Counts = tuple(0 for _ in self.classes.totals)
        level: list[Counts] = [none]
        for num_stages in range(1, self.most_stages + 1):
            found: dict[Counts, list[_Tails]] = {}
            for used in level:
                for block in self._addable(used):
                    now = (*used[:block], used[block] + 1, *used[block + 1 :])
                    tails = self._put_before(block, used, num_stages)
                    known = found.setdefault(now, [])
                    if tails and known and self.merges_heads:
                        known[0] = known[0].better_of(tails[0])
                    else:
                        known += tails
            self._found.update(found)
            level = list(found)
            for now in level:
                yield from ((now, pipeline) for pipeline in self._whole(now))

    def _addable(self, used: Counts) -> Iterator[int]:
        """Classes with a block left; where groups cannot be mixed, of the others' size."""
        widths = {
            block.num_chips
            for block, count in zip(self.classes.blocks, used, strict=True)
            if count and self.equal_widths
        }
        for index, total in enumerate(self.classes.totals):
            width = self.classes.blocks[index].num_chips
            if used[index] < total and (not widths or width in widths):
                yield index

    def _put_before(self, block: int, used: Counts, num_stages: int) -> list[_Tails]:
        """The best ends that begin with a stage on this block, before those of `used`."""
        forward, backward, own, shared = self.arrays.of_goals(block, num_stages, self.goals)
        if forward.min() >= NEVER:
            return []
        work = forward + backward
        exchange = own + self.weights * shared
        if num_stages == 1:
            return [self._last_stage(block, work, backward, exchange)]
        listed = []
        for rest in self._found.get(used, ()):
            head = int(rest.block.flat[0])
            send, latency = self.messages[block][head]
            one_way = send + latency
            behind = work + 2 * one_way
            pair = (behind + rest.work_s[:, None, :]) / 2
            longest = np.maximum(np.maximum(work, pair), send)
            time = np.maximum(self.counts * longest, behind + rest.time_s[:, None, :])
            exchanged = np.maximum(
                time - backward + exchange, forward + one_way + rest.exchanged_s[:, None, :]
            )
            listed.append((work, time, exchanged))
        return self._picked(block, listed) if listed else []

    def _last_stage(self, block: int, work: Floats, backward: Floats, exchange: Floats) -> _Tails:
        """The last stage alone: it ends with the last cut."""
        work, backward, exchange = (each[:, :, -1] for each in (work, backward, exchange))
        time = self.counts[:, :, 0] * work
        exchanged = time - backward + exchange
        shape = np.broadcast_shapes(time.shape, exchanged.shape)
        return _Tails(
            score=np.broadcast_to(np.maximum(time, exchanged), shape),
            time_s=np.broadcast_to(time, shape),
            exchanged_s=np.broadcast_to(exchanged, shape),
            work_s=np.broadcast_to(work, shape),
            block=np.full(shape, block),
            cut=np.full(shape, len(self.arrays.cuts) - 1),
            rest=np.zeros(shape, dtype=np.intp),
        )

    def _picked(self, block: int, listed: list[tuple[Floats, Floats, Floats]]) -> list[_Tails]:
        """For each goal and first cut the best ends: which rest, and where the stage stops."""
        work, time, exchanged = (
            each[0] if len(each) == 1 else np.concatenate(each, axis=2)
            for each in zip(*listed, strict=True)
        )
        score = np.maximum(time, exchanged)
        shape, num_ends = score.shape[:2], score.shape[2]
        flat = score.reshape(-1, num_ends)
        best = min(self.beam, num_ends)
        ranked = (
            np.argmin(flat, axis=1)[:, None]
            if best == 1
            else np.argsort(flat, axis=1, kind="stable")[:, :best]
        )
        rows = np.arange(len(flat))
        found = []
        for rank in range(best):
            places = ranked[:, rank]
            taken = [
                np.broadcast_to(each, score.shape).reshape(-1, num_ends)[rows, places]
                for each in (score, time, exchanged, work)
            ]
            rest, cut = np.divmod(places, len(self.arrays.cuts))
            whole = (*taken, np.full(len(flat), block), cut, rest)
            found.append(_Tails(*(each.reshape(shape) for each in whole)))
        return found

    def _whole(self, used: Counts) -> Iterator[Pipeline]:
        """The best pipelines over all layers for each goal."""
        for index, tails in enumerate(self._found[used]):
            for goal, (count, _) in enumerate(self.goals.pairs):
                if tails.score[goal, 0] < NEVER:
                    yield Pipeline(
                        tuple(self._stages(used, index, goal)),
                        count,
                        float(tails.time_s[goal, 0]),
                        float(tails.exchanged_s[goal, 0]),
                    )

    def _stages(self, used: Counts, index: int, goal: int) -> Iterator[StageChoice]:
        """Follows the choices from the first stage to the last."""
        cuts, begin = self.arrays.cuts, 0
        while any(used):
            tails = self._found[used][index]
            block, end = int(tails.block[goal, begin]), int(tails.cut[goal, begin])
            index = int(tails.rest[goal, begin])
            yield StageChoice(block, cuts[begin], cuts[end])
            used = (*used[:block], used[block] - 1, *used[block + 1 :])
            begin = end
