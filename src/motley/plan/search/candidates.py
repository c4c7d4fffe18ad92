"""The splits among which a plan is chosen, from the ways to put the chips into units."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from motley.cluster import Cluster
from motley.plan.objective import Objective, usd_per_hour
from motley.plan.search.alone import KEPT_OF_EACH, Alone, Candidate, on_chips
from motley.plan.search.blocks import GroupLinks, KnownLinks, Names, block_of
from motley.plan.search.build import Built, built
from motley.plan.search.choices import Block
from motley.plan.search.classes import block_classes, joined
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
from motley.plan.search.splits import SplitSearch
from motley.plan.search.unions import Unions
from motley.plan.space import Space
from motley.plan.stack import Stack
from motley.recipe import Recipe

SIMPLER = 1e-3
"""A plan from fewer, larger blocks is kept unless another is better by this share."""

NOTHING_TO_WIN = 0.01
"""Kinds that together reach what each does alone, but for this share, are not searched further."""

HELD_UP = 1.3
"""Kinds that side by side take so many times as long as at the speed of each alone are looked at
closer only where pipelines over several kinds are not much better."""

MOST_GAINED = 0.3
"""By which share a closer look makes such a step shorter at most."""


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
        parts = [options for each in alone if (options := each.options(self.cluster))]
        batch = self.recipe.batch.global_batch
        unions = Unions(parts, self.objective, batch, self._evaluator_of_groups)
        rough_s = 0.0 if self.objective.needs_prices else unions.rough_seconds()
        held_up = rough_s > HELD_UP * unions.ideal_s
        found = [] if held_up else self._together(unions)
        least_s = min((each.step_s for each in found), default=float("inf"))
        is_ideal = least_s * (1 - NOTHING_TO_WIN) <= unions.ideal_s < float("inf")
        if is_ideal and len(parts) == len(kinds) and not self.objective.needs_prices:
            return found
        for cuts in self._mixed_cuts(kinds, [each.cut for each in alone]):
            found += self._over(grouping(kinds, cuts))
        least_s = min((each.step_s for each in found), default=float("inf"))
        if held_up and rough_s * (1 - MOST_GAINED) < least_s:
            found += self._together(unions)
        return found

    def _together(self, unions: Unions) -> list[Candidate]:
        """Kinds side by side."""
        return [
            Candidate(
                self.objective.score(each.step_s, each.usd_per_hour),
                each.step_s,
                each.split,
                each.groups,
            )
            for each in unions.best()
        ]

    def _alone(self, kind: Kind, kinds: Sequence[Kind]) -> Alone:
        """What a kind does best with its share of the batch."""
        speeds = [
            each.num_chips * self.cluster.chip(each.nodes[0][0]).training_flops_per_s
            for each in kinds
        ]
        own = speeds[kinds.index(kind)] / sum(speeds)
        samples = max(1, round(self.recipe.batch.global_batch * own))
        cuts = cuts_of(kind, self.space)
        return Alone.of(samples, [(how, self._search(cut(kind, how), samples)) for how in cuts])

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

    def _over(self, units: Sequence[Names]) -> list[Candidate]:
        """The best splits over some units."""
        search = self._search(units, self.recipe.batch.global_batch)
        return [on_chips(each, search.classes) for each in search.run()[:KEPT_OF_EACH]]

    def _search(self, units: Sequence[Names], global_batch: int) -> SplitSearch:
        """Over some units, of the recipe's batch or another."""
        classes = block_classes(
            self.cluster, units, merges=self.space.groups, known_links=self.known_links
        )
        batch = dataclasses.replace(self.recipe.batch, global_batch=global_batch)
        recipe = dataclasses.replace(self.recipe, batch=batch)
        evaluator = self._evaluator(recipe, classes.blocks, classes)
        return SplitSearch(evaluator, classes, self.objective)

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
        every = sorted(
            (each for each in found if each.score < float("inf")), key=lambda each: each.order
        )
        if not every:
            return []
        limit = every[0].score * (1 + SIMPLER)
        lead = min(
            (each for each in every if each.score <= limit),
            key=lambda each: (len(each.groups), each.order),
        )
        return [lead, *(each for each in every if each is not lead)]


def _coarser(how: Cut) -> Cut:
    """Half as many slices, or else parts."""
    if how.slices > 1:
        fewer = max(each for each in range(1, how.slices) if how.slices % each == 0)
        return how._replace(slices=fewer)
    return how._replace(parts=max(e for e in range(1, how.parts) if how.parts % e == 0))
