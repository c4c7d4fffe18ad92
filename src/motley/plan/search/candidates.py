"""The splits among which a plan is chosen, from the ways to put the chips into units."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from motley.cluster import Cluster
from motley.plan.objective import Objective, usd_per_hour
from motley.plan.search.blocks import GroupLinks, KnownLinks, Names, block_of
from motley.plan.search.build import Built, built
from motley.plan.search.choices import Block, Split
from motley.plan.search.classes import BlockClasses, block_classes, joined
from motley.plan.search.evaluate import Evaluator
from motley.plan.search.expand import expand
from motley.plan.search.groupings import (
    Cut,
    Kind,
    bearable,
    cut,
    cuts_of,
    finest,
    grouping,
    kinds_of,
)
from motley.plan.search.memo import Links, Memo
from motley.plan.search.rows import rows
from motley.plan.search.splits import Found, SplitSearch
from motley.plan.search.unions import Options, Part, Unions
from motley.plan.space import Space
from motley.plan.stack import Stack
from motley.recipe import Recipe

SIMPLER = 1e-3
"""A plan from fewer, larger blocks is kept unless another is better by this share."""

NOTHING_TO_WIN = 0.01
"""Kinds that together reach what each does alone, but for this share, are not searched further."""

KEPT_OF_EACH = 4

OPTIONS_OF_EACH = 2
"""Of what a kind does alone, from each cut, that are tried beside other kinds."""

OPTIONS = 5
"""Of them in all."""


class Candidate(NamedTuple):
    """A split over groups of chips, and its simulated step; the lower the score, the better."""

    score: float
    step_s: float
    split: Split
    groups: tuple[Names, ...]


class Candidates:
    """Finds the best splits of one recipe over one cluster."""

    def __init__(
        self, recipe: Recipe, cluster: Cluster, objective: Objective, space: Space, stack: Stack
    ) -> None:
        if objective.needs_prices:
            usd_per_hour(cluster.chips, f"the goal '{objective.goal}'")
        self.recipe = recipe
        self.cluster = cluster
        self.objective = objective
        self.space = space
        self.stack = stack
        self.memo = Memo()
        self.known_links = KnownLinks()

    def with_objective(self, objective: Objective) -> Candidates:
        """The same search for another objective."""
        other = Candidates(self.recipe, self.cluster, objective, self.space, self.stack)
        other.memo, other.known_links = self.memo, self.known_links
        return other

    def built(self, candidate: Candidate) -> Built:
        """The plan of a candidate, without reasons."""
        split, groups = expand(candidate.split, candidate.groups, self.space)
        evaluator = self._evaluator_of_groups(groups)
        return built(evaluator, split, self.recipe, self.cluster, groups)

    def best(self) -> list[Candidate]:
        """The best split and the best ones of another structure or grouping, best first; empty if
        none fits."""
        kinds = kinds_of(self.cluster)
        single = finest(kinds)
        if single is not None:
            return self._ordered(self._over(grouping(kinds, single)))
        if len(kinds) == 1:
            found = [each for how in cuts_of(kinds[0], self.space)
                     for each in self._over(cut(kinds[0], how))]  # fmt: skip
        else:
            found = self._of_kinds(kinds)
        return self._ordered(found or list(self._in_rows(kinds)))

    def _in_rows(self, kinds: Sequence[Kind]) -> Iterator[Candidate]:
        """Long pipelines by a rule, where no other fits."""
        batch = self.recipe.batch.global_batch
        for split, groups in rows(self.cluster, kinds, self.recipe.model.num_layers, batch):
            evaluator = self._evaluator_of_groups(groups)
            step_s = evaluator.step_seconds(split)
            if step_s is not None:
                price = 0.0
                if self.objective.needs_prices:
                    chips = [self.cluster.chip(name) for name in joined(groups)]
                    price = usd_per_hour(chips, f"the goal '{self.objective.goal}'")
                yield Candidate(self.objective.score(step_s, price), step_s, split, groups)

    def _of_kinds(self, kinds: Sequence[Kind]) -> list[Candidate]:
        """Kinds alone, together, and mixed."""
        alone = [self._alone(kind, kinds) for kind in kinds]
        parts = [options for options, _ in alone if options]
        batch = self.recipe.batch.global_batch
        unions = Unions(parts, self.objective, batch, self._evaluator_of_groups)
        found = []
        for each in unions.best():
            score = self.objective.score(each.step_s, each.usd_per_hour)
            found.append(Candidate(score, each.step_s, each.split, each.groups))
        if len(parts) == len(kinds) and found and not self.objective.needs_prices:
            ideal_s = batch / sum(options[0].samples_per_s for options in parts)
            if min(each.step_s for each in found) * (1 - NOTHING_TO_WIN) <= ideal_s:
                return found
        for cuts in self._mixed_cuts(kinds, [how for _, how in alone]):
            found += self._over(grouping(kinds, cuts))
        return found

    def _alone(self, kind: Kind, kinds: Sequence[Kind]) -> tuple[Options, Cut]:
        """What a kind does best with its share of the batch, and in which cut."""
        speeds = [
            each.num_chips * self.cluster.chip(each.nodes[0][0]).training_flops_per_s
            for each in kinds
        ]
        own = speeds[kinds.index(kind)] / sum(speeds)
        samples = max(1, round(self.recipe.batch.global_batch * own))
        cuts = cuts_of(kind, self.space)
        found = [
            (each, how)
            for how in cuts
            for each in self._over(cut(kind, how), samples)[:OPTIONS_OF_EACH]
        ]
        if not found:
            return (), cuts[0]
        found = sorted(found, key=lambda pair: _order(pair[0]))[:OPTIONS]
        return tuple(self._part(each, samples) for each, _ in found), found[0][1]

    def _part(self, candidate: Candidate, samples: int) -> Part:
        chips = tuple(self.cluster.chip(name) for name in joined(candidate.groups))
        return Part(candidate.split, candidate.groups, samples / candidate.step_s, chips)

    def _mixed_cuts(self, kinds: Sequence[Kind], own: Sequence[Cut]) -> list[tuple[Cut, ...]]:
        """Cuts for pipelines over several kinds: each kind's own best where that can be borne, and
        ever coarser ones."""
        options = [cuts_of(kind, self.space) for kind in kinds]
        wanted: list[list[Cut]] = [list(own), [each[-1] for each in options]]
        found: dict[tuple[Cut, ...], None] = {}
        for cuts in wanted:
            now = [*cuts]
            while not bearable(now):
                widest = max(range(len(now)), key=lambda k: (now[k].num_sets, k))
                now[widest] = _coarser(now[widest])
            found[tuple(now)] = None
        return list(found)

    def _over(self, units: Sequence[Names], global_batch: int | None = None) -> list[Candidate]:
        """The best splits over some units, of the recipe's batch or another."""
        classes = block_classes(
            self.cluster, units, merges=self.space.groups, known_links=self.known_links
        )
        recipe = self.recipe
        if global_batch is not None:
            batch = dataclasses.replace(recipe.batch, global_batch=global_batch)
            recipe = dataclasses.replace(recipe, batch=batch)
        evaluator = self._evaluator(recipe, classes.blocks, classes)
        found = SplitSearch(evaluator, classes, self.objective).run()
        return [on_chips(each, classes) for each in found[:KEPT_OF_EACH]]

    def _evaluator_of_groups(self, groups: Sequence[Names]) -> Evaluator:
        blocks = [block_of(self.cluster, names) for names in groups]
        return self._evaluator(
            self.recipe, blocks, GroupLinks(self.cluster, groups, self.known_links)
        )

    def _evaluator(self, recipe: Recipe, blocks: Sequence[Block], links: Links) -> Evaluator:
        # Memory tables take the more, the more tokens a step has.
        is_shared = recipe.model.tables is None or recipe.batch == self.recipe.batch
        memo = self.memo if is_shared else Memo()
        return Evaluator(recipe, blocks, links, space=self.space, stack=self.stack, memo=memo)

    def _ordered(self, found: list[Candidate]) -> list[Candidate]:
        """The best first; of nearly equal ones that with the fewest groups leads."""
        every = sorted((each for each in found if each.score < float("inf")), key=_order)
        if not every:
            return []
        limit = every[0].score * (1 + SIMPLER)
        lead = min(
            (each for each in every if each.score <= limit),
            key=lambda each: (len(each.groups), _order(each)),
        )
        return [lead, *(each for each in every if each is not lead)]


def on_chips(found: Found, classes: BlockClasses) -> Candidate:
    """The split with the chips of actual units in place of types of blocks, in order."""
    left = [iter(members) for members in classes.members]
    groups: list[Names] = []
    replicas = []
    for replica in sorted(found.split, key=lambda each: (-each.num_samples, each.stages)):
        held: list[int] = []
        for block in replica.blocks:
            held.append(len(groups))
            groups.append(
                joined(
                    next(members)
                    for members, count in zip(left, classes.needs[block], strict=True)
                    for _ in range(count)
                )
            )
        stages = tuple(
            stage._replace(block=held[group])
            for group, stage in zip(replica.held_by, replica.stages, strict=True)
        )
        replicas.append(replica._replace(stages=stages))
    return Candidate(found.score, found.step_s, tuple(replicas), tuple(groups))


def _coarser(how: Cut) -> Cut:
    """Half as many slices, or else parts."""
    if how.slices > 1:
        fewer = max(each for each in range(1, how.slices) if how.slices % each == 0)
        return how._replace(slices=fewer)
    return how._replace(parts=max(e for e in range(1, how.parts) if how.parts % e == 0))


def _order(candidate: Candidate) -> tuple[float, int, Split]:
    return candidate.score, len(candidate.groups), candidate.split
