"""Small changes to a split that make its step shorter, all gradients' exchange included.

The partition search looks at each replica's time alone. Here samples move between replicas,
boundaries between stages, chips within a replica, and micro-batch sizes change, as long as the
exactly simulated step gets shorter, or stays as it is with less work at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import zip_longest

from motley.plan.search.choices import ReplicaChoice, Split, StageChoice
from motley.plan.search.ends import Goals
from motley.plan.search.rebalance import Rebalancer, Reorderer
from motley.plan.search.stage_arrays import ArraysByCuts
from motley.plan.space import layouts

TOLERANCE = 1e-9
"""Relative; differences below are rounding."""

LARGER_MICRO_BATCH = 0.005
"""A larger micro-batch may cost this share of the step: real chips run it better than counted."""


MANY_LOOKS = 500
"""From which on micro-batches of all sizes are tried."""

FEW_LAYOUTS = 4
"""Of a group that are tried, for few looks."""

VIRTUAL_STAGES = (2, 4)
"""Of each group under an interleaved schedule."""


def micro_batch_sizes(limit: int) -> list[int]:
    """1 to 8, then steps of a quarter to a fifth, up to `limit` and with it."""
    sizes, size = [], 1
    while size < limit:
        sizes.append(size)
        size += 1 if size < 8 else 2 if size < 16 else size // 4
    return [*sizes, limit]


Alternatives = Callable[[ReplicaChoice], Iterator[ReplicaChoice]]


class Refiner:
    """Improves splits step by step; `most_looks` bounds the changes tried for one split."""

    def __init__(
        self,
        arrays: ArraysByCuts,
        alternatives: Alternatives,
        most_looks: int,
        ordered: Collection[Goals] = (),
    ) -> None:
        """`ordered`: goals for which pipelines over one block of each unit are in their best
        order."""
        self.evaluator = arrays.evaluator
        self.alternatives = alternatives
        self.most_looks = most_looks
        self.rebalancer = Rebalancer(arrays)
        self.reorderer = Reorderer(arrays, ordered)
        self._busy: dict[ReplicaChoice, float] = {}
        self._improved: dict[tuple[Split, bool], Split] = {}

    def score(self, split: Split, longest_s: float = float("inf")) -> tuple[float, float] | None:
        """Step time, and the sum of the replicas' times; None if it does not fit, or if some
        replica alone takes longer than `longest_s`."""
        if any(self._busy_seconds(replica) > longest_s for replica in split):
            return None
        times = []
        for replica in split:
            found = self.evaluator.replica(replica)
            if found is None or found.finish_s > longest_s:
                return None
            times.append(found)
        return self.evaluator.barrier(split, times), sum(time.finish_s for time in times)

    def _busy_seconds(self, replica: ReplicaChoice) -> float:
        """Time for which the busiest stage computes, a last smaller micro-batch left out."""
        found = self._busy.get(replica)
        if found is None:
            layouts = self.evaluator.layouts(replica)
            if layouts is None:
                return float("inf")
            size = min(replica.micro_batch_size, replica.num_samples)
            whole = [
                sum(self.evaluator.pass_seconds(stage, size, layout))
                for stage, layout in zip(replica.stages, layouts, strict=True)
            ]
            count = replica.num_samples // size
            found = self._busy[replica] = 0.0 if replica.devices else count * max(whole)
        return found

    def improve(self, split: Split, *, shares_only: bool = False) -> Split:
        """The split after all changes that help, or after samples moved between replicas.

        A split that was met on the way from another one is improved as it was then.
        """
        best = self.score(split)
        looks = 0
        improved = best is not None
        tried, way = {split}, list[Split]()
        while improved and looks < self.most_looks:
            known = self._improved.get((split, shares_only))
            if known is not None:
                split = known
                break
            way.append(split)
            improved = False
            changes = self._moved_samples(split) if shares_only else self.changes(split)
            for changed in changes:
                if changed in tried:
                    continue
                tried.add(changed)
                looks += 1
                score = self.score(changed, best[0] * (1 + TOLERANCE)) if best else None
                if score and best and _better(score, best):
                    split, best, improved = changed, score, True
                    break
                if looks >= self.most_looks:
                    break
        self._improved.update(((each, shares_only), split) for each in way)
        return split

    def changes(self, split: Split) -> Iterator[Split]:
        """All small changes of a split; alike replicas change together, then one by one."""
        alike: dict[ReplicaChoice, list[int]] = {}
        for index, replica in enumerate(split):
            alike.setdefault(replica._replace(num_samples=0), []).append(index)
        alone = len(split) == 1
        for places in alike.values():
            if len(split[places[0]].stages) > 1 and not split[places[0]].devices:
                for change in (self.reorderer.reordered, self.rebalancer.rebalanced):
                    yield _with(split, places, [change(split[at], alone=alone) for at in places])
        yield from self._moved_samples(split)
        for places in alike.values():
            each = [self._changed_replicas(split[place]) for place in places]
            for together in zip_longest(*each):
                yield _with(split, places, together)
            if len(places) > 1:
                for single in self._changed_replicas(split[places[0]]):
                    yield _with(split, places[:1], (single,))

    def _moved_samples(self, split: Split) -> Iterator[Split]:
        finish = [self._finish(replica) for replica in split]
        order = sorted(range(len(split)), key=lambda index: (-finish[index], index))
        for giver in order[:3]:
            for taker in reversed(order):
                if taker == giver:
                    continue
                count = 1
                while count < split[giver].num_samples:
                    changed = list(split)
                    changed[giver] = self._with_samples(split[giver], -count)
                    changed[taker] = self._with_samples(split[taker], count)
                    yield tuple(changed)
                    count *= 2

    def _finish(self, replica: ReplicaChoice) -> float:
        times = self.evaluator.replica(replica)
        return times.finish_s if times else 0.0

    def _with_samples(self, replica: ReplicaChoice, change: int) -> ReplicaChoice:
        samples = replica.num_samples + change
        size = replica.micro_batch_size
        if size == replica.num_samples and len(replica.stages) == 1:
            size = samples
        return replica._replace(micro_batch_size=min(size, samples), num_samples=samples)

    def _changed_replicas(self, replica: ReplicaChoice) -> Iterator[ReplicaChoice]:
        for size in self._other_sizes(replica):
            yield replica._replace(micro_batch_size=size)
            if self.most_looks >= MANY_LOOKS:
                yield from self._other_layouts(replica._replace(micro_batch_size=size, layouts=()))
        yield from self._other_layouts(replica)
        yield from self._other_schedules(replica)
        if replica.devices:
            return
        for stages in _shifted(replica.stages):
            yield replica._replace(stages=stages, layouts=())
        for stages in _exchanged(replica.stages):
            yield replica._replace(stages=stages, layouts=())
        yield from self.alternatives(replica)

    def _other_layouts(self, replica: ReplicaChoice) -> Iterator[ReplicaChoice]:
        """Other layouts of groups: how much of an exchange can hide only a simulation tells."""
        now = self.evaluator.layouts(replica)
        if now is None or replica.devices:
            return
        for kind in dict.fromkeys(stage.block for stage in replica.stages):
            block = self.evaluator.blocks[kind]
            if block.num_chips == 1:
                continue
            known = self.evaluator.useful_layouts(
                kind, replica.micro_batch_size, replica.num_micro_batches
            )[:FEW_LAYOUTS]
            if self.most_looks >= MANY_LOOKS:
                known = layouts(block, self.evaluator.config, self.evaluator.space)
            for layout in known:
                laid = tuple(
                    layout if stage.block == kind else own
                    for stage, own in zip(replica.stages, now, strict=True)
                )
                if laid != now:
                    yield replica._replace(layouts=laid)

    def _other_schedules(self, replica: ReplicaChoice) -> Iterator[ReplicaChoice]:
        """Schedules with shorter bubbles; to interleave needs micro-batches enough to fill them."""
        num_stages = len(replica.stages)
        if replica.devices or num_stages < 2:
            return
        for schedule in self.evaluator.space.schedules:
            if schedule == "interleaved":
                if num_stages <= replica.num_micro_batches:
                    yield from _interleaved(replica)
            elif schedule != replica.schedule:
                yield replica._replace(schedule=schedule)

    def _other_sizes(self, replica: ReplicaChoice) -> list[int]:
        """Micro-batches of half and of twice the size, and for few looks no others."""
        samples, size = replica.num_samples, replica.micro_batch_size
        near = {2 * size, size // 2}
        if self.most_looks >= MANY_LOOKS:
            near |= {size - 1, size + 1, samples, -(-samples // 2)}
            if samples <= 16:
                near |= set(range(1, samples + 1))
        return sorted(near & set(range(1, samples + 1)) - {size}, reverse=True)

    def enlarge(self, split: Split, step_s: float) -> Split:
        """The largest micro-batches with which the step takes hardly longer.

        Where kernels are counted the step itself says what a larger micro-batch is worth.
        """
        if all(block.chip.efficiency is not None for block in self.evaluator.blocks):
            return split
        limit_s = step_s * (1 + LARGER_MICRO_BATCH)
        for index in range(len(split)):
            for size in reversed(micro_batch_sizes(split[index].num_samples)):
                if size <= split[index].micro_batch_size:
                    break
                changed = _with(split, [index], [split[index]._replace(micro_batch_size=size)])
                seconds = self.evaluator.step_seconds(changed, exact=True)
                if seconds is not None and seconds <= limit_s:
                    split = changed
                    break
        return split


def _with(split: Split, places: Sequence[int], replicas: Sequence[ReplicaChoice | None]) -> Split:
    """The split with some replicas in place of others; None leaves one as it is."""
    changed = list(split)
    for place, replica in zip(places, replicas, strict=True):
        changed[place] = replica or changed[place]
    return tuple(changed)


def _interleaved(replica: ReplicaChoice) -> Iterator[ReplicaChoice]:
    """Each block's layers in two to four parts, all first parts before all second ones."""
    stages = replica.stages
    for num_parts in VIRTUAL_STAGES:
        if min(stage.last_layer - stage.first_layer for stage in stages) < num_parts:
            return
        virtual, begin = [], 0
        for part in range(num_parts):
            for stage in stages:
                layers = stage.last_layer - stage.first_layer
                length = (part + 1) * layers // num_parts - part * layers // num_parts
                virtual.append(StageChoice(stage.block, begin, begin + length))
                begin += length
        devices = tuple(range(len(stages))) * num_parts
        yield replica._replace(
            stages=tuple(virtual), schedule="interleaved", devices=devices, layouts=()
        )


def _better(score: tuple[float, float], best: tuple[float, float]) -> bool:
    if score[0] < best[0] * (1 - TOLERANCE):
        return True
    return score[0] <= best[0] * (1 + TOLERANCE / 10) and score[1] < best[1] * (1 - TOLERANCE)


def _shifted(stages: tuple[StageChoice, ...]) -> Iterator[tuple[StageChoice, ...]]:
    """One layer moves over a boundary."""
    for index in range(len(stages) - 1):
        before, after = stages[index], stages[index + 1]
        for shift in (-1, 1):
            boundary = before.last_layer + shift
            if before.first_layer < boundary < after.last_layer:
                yield (
                    *stages[:index],
                    before._replace(last_layer=boundary),
                    after._replace(first_layer=boundary),
                    *stages[index + 2 :],
                )


def _exchanged(stages: tuple[StageChoice, ...]) -> Iterator[tuple[StageChoice, ...]]:
    """Two chips change places, with and without as many layers as they had."""
    for first in range(len(stages)):
        for second in range(first + 1, len(stages)):
            if stages[first].block == stages[second].block:
                continue
            chips = [stage.block for stage in stages]
            chips[first], chips[second] = chips[second], chips[first]
            yield tuple(
                stage._replace(block=chip) for stage, chip in zip(stages, chips, strict=True)
            )
            lengths = [stage.last_layer - stage.first_layer for stage in stages]
            if lengths[first] == lengths[second]:
                continue
            lengths[first], lengths[second] = lengths[second], lengths[first]
            begin, moved = 0, []
            for chip, length in zip(chips, lengths, strict=True):
                moved.append(StageChoice(chip, begin, begin + length))
                begin += length
            yield tuple(moved)
