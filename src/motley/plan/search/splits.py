"""The best splits over the blocks of one grouping."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from motley.chips.chip import Chip
from motley.plan.layout import Layout
from motley.plan.objective import Objective, usd_per_hour
from motley.plan.search.choices import ReplicaChoice, Split, StageChoice
from motley.plan.search.classes import BlockClasses, Counts
from motley.plan.search.effort import cuts_between, effort_for, probes, spread
from motley.plan.search.ends import Goals
from motley.plan.search.evaluate import Evaluator
from motley.plan.search.levels import Levels
from motley.plan.search.lines import Lines
from motley.plan.search.partitions import Partitions, Promise
from motley.plan.search.pipelines import PipelineSearch
from motley.plan.search.refine import Refiner
from motley.plan.search.single_stages import SingleStages
from motley.plan.search.stage_arrays import ArraysByCuts
from motley.plan.space import layouts

EQUAL = 1e-6
"""Relative difference of scores below which the simpler split is taken."""

NEAR = 1.04
"""Partitions are looked at whose estimate is no longer than this times the shortest."""

LARGER_HELPS = 0.99
"""Larger micro-batches are tried as long as they take less than this share of a sample's time."""

LEFT_TO_GAIN = 0.1
"""By which share refining makes a step shorter at most, but for samples that move."""

SAMPLES_MOVED = 1.5
"""For each chip."""

MOST_SUBSETS = 8
"""Choices of units that are looked into when chips cost money."""

FEW_SUBSETS = 64
"""The same for few splits."""


class Found(NamedTuple):
    """A split with its simulated step; the lower the score, the better."""

    score: float
    step_s: float
    split: Split


class SplitSearch:
    """One search; `run` gives the best split and the best ones of another structure."""

    def __init__(self, evaluator: Evaluator, classes: BlockClasses, objective: Objective) -> None:
        self.evaluator = evaluator
        self.classes = classes
        self.objective = objective
        self.batch = evaluator.global_batch
        self.layouts = [
            layouts(block, evaluator.config, evaluator.space) for block in classes.blocks
        ]
        self.effort = effort_for(
            evaluator.num_layers,
            classes.totals,
            [*map(len, self.layouts)],
            len(classes.cluster.chips),
        )
        self.flops = sum(evaluator.sample_flops()) * self.batch
        speed = sum(total * _unit_speed(classes, unit) for unit, total in enumerate(classes.totals))
        self.ideal_s = self.flops / speed
        self.searches: list[PipelineSearch] = []
        self.levels = Levels(evaluator, classes)
        self.arrays = ArraysByCuts(evaluator)
        self.partitions: Partitions | None = None
        self._lines_of: dict[tuple[Counts, int], tuple[ReplicaChoice, ...]] = {}

    def run(self) -> list[Found]:
        """The best split first; empty if none fits."""
        self.partitions = self._partitions()
        if self.partitions is None:
            return []
        return self._choose(sorted(self._visit(self.partitions)))

    def _partitions(self) -> Partitions | None:
        """All pipelines, and the ways to form replicas of them."""
        totals, effort = self.classes.totals, self.effort
        cuts = cuts_between(self.evaluator.num_layers, effort.most_cuts)
        most_stages = min(sum(totals), len(cuts) - 1)
        arrays = self.arrays.between(cuts, min(most_stages, self.batch))
        single = SingleStages(
            self.evaluator, self.classes, self.layouts, effort, self.levels, arrays.last_share
        )
        parts, best = [single.lines(self._least_size())], float("inf")
        for goals in self._goals():
            search = PipelineSearch(
                self.evaluator,
                totals,
                self.classes.needs,
                arrays,
                goals,
                beam=effort.beam,
                levels=self.levels.seconds.tolist(),
            )
            lines = search.run(most_stages)
            if lines is None:
                break
            origin = np.insert(lines.origin, 0, len(self.searches), axis=1)
            parts.append(lines._replace(origin=origin))
            self.searches.append(search)
            pace = float((lines.period_s / lines.size).min(initial=np.inf))
            if not effort.all_sizes and pace > LARGER_HELPS * best:
                break
            best = min(best, pace)
        lines = Lines.joined(parts)
        if not len(lines.size):
            return None
        return Partitions(totals, lines, self.batch, self.ideal_s, self.levels)

    def _goals(self) -> Iterator[Goals]:
        several = sum(self.classes.totals) > 1
        least = 1
        for size in spread(self._least_size(), self.batch, self.effort):
            counts = probes(-(-self.batch // size), self.effort)
            pairs = [(count, False) for count in counts]
            if several:
                pairs += [(count, True) for count in counts]
            if not self.effort.all_sizes:
                pairs = [(counts[-1], False), (counts[0], several)][: self.effort.most_goals]
            yield Goals(size, tuple(dict.fromkeys(pairs)), least)
            least = size + 1

    def _least_size(self) -> int:
        """Samples of a micro-batch with which some block has work for all its chips."""
        members = [min(layout.data for layout in each) for each in self.layouts]
        return min(self.batch, *members)

    def _split(self, promise: Promise) -> Split:
        assert self.partitions is not None
        lines = self.partitions.lines
        replicas = []
        for line, samples in promise.shares:
            size = min(int(lines.size[line]), samples)
            origin = lines.origin[line]
            replica = ReplicaChoice(self._stages(origin), size, samples)
            replicas.append(replica._replace(layouts=self._layouts_of(origin)))
        return tuple(sorted(replicas, key=lambda each: (-each.num_samples, each.stages)))

    def _layouts_of(self, origin: Sequence[int]) -> tuple[Layout, ...]:
        """The layout that a line was made for, if it was not the fastest."""
        search, block, place, *_ = map(int, origin)
        if search >= 0 or not self.effort.all_sizes or len(self.layouts[block]) == 1:
            return ()
        return (self.layouts[block][place],)

    def _stages(self, origin: Sequence[int]) -> tuple[StageChoice, ...]:
        search, *rest = map(int, origin)
        if search < 0:
            return (StageChoice(rest[0], 0, self.evaluator.num_layers),)
        return self.searches[search].stages(rest)

    def _visit(self, partitions: Partitions) -> Iterator[Found]:
        """Simulates promising partitions, up to those that cannot be faster than the best."""
        pessimism = self.effort.pessimism
        for choices in self._choices_of_units(partitions):
            fastest_s, done = float("inf"), set[Split]()
            for within in (NEAR, None):
                if within is None and fastest_s == float("inf"):
                    break
                longest_s = None if within else pessimism * fastest_s
                for promise in self._promising(partitions, choices, within, longest_s):
                    split = self._split(promise)
                    if promise.time_s > pessimism * fastest_s or split in done:
                        continue
                    done.add(split)
                    for scheduled in self._scheduled(split):
                        found = self._simulated(scheduled)
                        if found is not None:
                            fastest_s = min(fastest_s, found.step_s)
                            yield found

    def _scheduled(self, split: Split) -> Iterator[Split]:
        """The split, and where they are known with zero-bubble schedules of its pipelines."""
        yield split
        if "zero-bubble" in self.evaluator.space.schedules:
            other = tuple(
                replica._replace(schedule="zero-bubble") if len(replica.stages) > 1 else replica
                for replica in split
            )
            if other != split:
                yield other

    def _promising(
        self,
        partitions: Partitions,
        choices: Sequence[Counts],
        near: float | None,
        longest_s: float | None,
    ) -> list[Promise]:
        """The most promising partitions of any of some choices of units."""
        most, found = self.effort.most_partitions, list[Promise]()
        begins = [(partitions.earliest(units)[0], units) for units in choices]
        for begin_s, units in sorted(begins):
            if len(found) == most and begin_s > found[-1].time_s:
                break
            more = partitions.promising(units, most, near=near, longest_s=longest_s)
            found = sorted(dict.fromkeys([*found, *more]))[:most]
        return found

    def _choices_of_units(self, partitions: Partitions) -> list[list[Counts]]:
        """The units to choose from: all or those with faster links between them; if chips cost
        money those with the best price, each by itself."""
        if not self.objective.needs_prices:
            return [self.levels.neighbourhoods()[:MOST_SUBSETS]]
        hopeful = 1 / self.effort.pessimism
        priced = sorted(
            (self.objective.score(hopeful * seconds, self._price(units)), seconds, units)
            for seconds, units in partitions.first_times()
        )
        most = FEW_SUBSETS if self.effort.all_sizes else MOST_SUBSETS
        cheapest = [units for score, _, units in priced if score < float("inf")][:most]
        return [[units] for units in dict.fromkeys([*cheapest, self.classes.totals])]

    def _price(self, used: Counts) -> float:
        """USD per hour of a set of units."""
        if not self.objective.needs_prices:
            return 0.0
        chips = [
            _chip(self.classes, unit)
            for unit, count in enumerate(used)
            for _ in range(count * len(self.classes.members[unit][0]))
        ]
        return usd_per_hour(chips, f"the goal '{self.objective.goal}'")

    def _simulated(self, split: Split, *, exact: bool = False) -> Found | None:
        seconds = self.evaluator.step_seconds(split, exact=exact)
        if seconds is None:
            return None
        price = self._price(self.classes.used(split)) if self.objective.needs_prices else 0.0
        return Found(self.objective.score(seconds, price), seconds, split)

    def _choose(self, ranked: list[Found]) -> list[Found]:
        """Refines the best ones; the simplest of the equally good, then the others."""
        refiner = Refiner(
            self.arrays, self._alternatives, self.effort.most_looks, self._ordered_goals()
        )
        refined = {found.split: found for found in ranked}
        structures: dict[object, Found] = {}
        for found in ranked:
            structures.setdefault(_structure(found.split), found)
        best_score = min((found.score for found in ranked), default=0.0)
        for found in list(structures.values())[: self.effort.most_refined]:
            if found.score > self._worth_refining * best_score:
                break
            better = self._simulated(refiner.improve(found.split), exact=True)
            if better is not None:
                refined[better.split] = better
        if not refined:
            return []
        order = sorted(refined.values(), key=lambda each: (each.score, _complexity(each.split)))
        limit = order[0].score * (1 + EQUAL)
        winner = min(
            (each for each in order if each.score <= limit),
            key=lambda each: _complexity(each.split),
        )
        larger = refiner.enlarge(winner.split, winner.step_s)
        others = {_structure(winner.split): self._simulated(larger, exact=True) or winner}
        for each in order:
            others.setdefault(_structure(each.split), each)
        return list(others.values())

    def _ordered_goals(self) -> list[Goals]:
        """For which pipelines were built from every order of their blocks: not where units can form
        blocks in several ways, of which the best alone was kept."""
        if len(self.classes.needs) > len(self.classes.totals):
            return []
        alone = [[pair for pair in each.goals.pairs if not pair[1]] for each in self.searches]
        return [
            each.goals._replace(pairs=tuple(pairs))
            for each, pairs in zip(self.searches, alone, strict=True)
        ]

    @property
    def _worth_refining(self) -> float:
        """Up to how much over the best score a split is refined: where micro-batches of all sizes
        were tried what is left to gain are single samples, which are little of a large batch."""
        if not self.effort.all_sizes:
            return float("inf")
        return 1 + LEFT_TO_GAIN + SAMPLES_MOVED * len(self.classes.cluster.chips) / self.batch

    def _alternatives(self, replica: ReplicaChoice) -> Iterator[ReplicaChoice]:
        """Other pipelines over the units of a replica, for its samples."""
        key = self.classes.used((replica,)), replica.num_samples
        known = self._lines_of.get(key)
        if known is None:
            known = self._lines_of[key] = tuple(self._best_lines(*key))
        others = (other for other in known if other != replica)
        return islice(others, self.effort.kept_lines)

    def _best_lines(self, units: Counts, samples: int) -> Iterator[ReplicaChoice]:
        """Unlike pipelines over all of some units for so many samples, the quickest first; one more
        than alternatives are asked for."""
        assert self.partitions is not None
        lines, found = self.partitions.of_units(units), dict[ReplicaChoice, None]()
        for place in np.argsort(lines.seconds(samples, 0), kind="stable").tolist():
            stages, size = self._stages(lines.origin[place]), int(lines.size[place])
            found[ReplicaChoice(stages, min(size, samples), samples)] = None
            if len(found) > self.effort.kept_lines:
                break
        return iter(found)


def _chip(classes: BlockClasses, unit: int) -> Chip:
    return classes.cluster.chip(classes.members[unit][0][0])


def _unit_speed(classes: BlockClasses, unit: int) -> float:
    return len(classes.members[unit][0]) * _chip(classes, unit).training_flops_per_s


def _complexity(split: Split) -> tuple[object, ...]:
    """Fewer stages first, then more even shares, then the order of names."""
    num_stages = sum(len(replica.stages) for replica in split)
    samples = [replica.num_samples for replica in split]
    layers = [stage.last_layer - stage.first_layer for r in split for stage in r.stages]
    return num_stages, max(samples) - min(samples), max(layers) - min(layers), split


def _structure(split: Split) -> object:
    """Which blocks form replicas together."""
    return tuple(sorted(tuple(sorted(stage.block for stage in r.stages)) for r in split))
