"""Finds the best plan that fits every chip's memory; the same one every time.

Four levels, each remembering what it has computed: ways to put the chips into blocks (`groupings`),
the best pipelines of every set of blocks (`pipelines`), the partitions of the blocks into replicas
with their shares of the batch (`partitions`), and small changes with the whole step simulated
exactly (`refine`). Few chips are taken one by one; many as blocks, whose inside each stage lays out
as is best for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from motley.cluster import Cluster
from motley.plan.blocks import Names
from motley.plan.build import build_plan
from motley.plan.choices import Split
from motley.plan.classes import BlockClasses, Counts, block_classes
from motley.plan.evaluate import Evaluator
from motley.plan.expand import expand
from motley.plan.groupings import few, first_counts, grouping, kinds_of, neighbours
from motley.plan.lacking import no_plan
from motley.plan.objective import FASTEST, Objective, usd_per_hour
from motley.plan.plan import Plan
from motley.plan.reasons import explain_choice, explain_rejected
from motley.plan.space import TRAINABLE, Space
from motley.plan.splits import Found, SplitSearch
from motley.plan.stack import MOTLEY, Stack
from motley.recipe import Recipe

MOST_GROUPINGS = 24
"""Groupings that are searched."""

KEPT_ALTERNATIVES = 3

SIMPLER = 1e-3
"""A plan from fewer, larger blocks is kept unless another is better by this share."""


class Candidate(NamedTuple):
    """A split over the blocks of one grouping."""

    found: Found
    counts: Counts
    """Into how many blocks each kind is cut."""
    groups: tuple[Names, ...]


def search(
    recipe: Recipe,
    cluster: Cluster,
    *,
    objective: Objective = FASTEST,
    space: Space = TRAINABLE,
    stack: Stack = MOTLEY,
) -> Plan:
    """The best plan that fits, for the objective.

    Raises:
        NoPlanError: the model fits on no split of the chips; names what is lacking where.
        RecipeError: the recipe's vocabulary is not known yet.
        ClusterError: the objective needs prices that are unknown.
    """
    best = candidates(recipe, cluster, objective, space, stack)
    plans = []
    for each in best[: 1 + KEPT_ALTERNATIVES]:
        split, groups = expand(each.found.split, each.groups, space)
        plans.append(build_plan(split, recipe, cluster, groups, space=space, stack=stack))
    rejected = explain_rejected(plans[0], plans[1:], recipe, cluster)
    return explain_choice(rejected, recipe, cluster)


def candidates(
    recipe: Recipe,
    cluster: Cluster,
    objective: Objective = FASTEST,
    space: Space = TRAINABLE,
    stack: Stack = MOTLEY,
) -> list[Candidate]:
    """The best split and the best ones of another structure or grouping, best first."""
    if objective.needs_prices:
        usd_per_hour(cluster.chips, f"the goal '{objective.goal}'")
    kinds = kinds_of(cluster)
    found: dict[Counts, list[Candidate]] = {}

    def look(counts: Counts) -> None:
        if counts in found or len(found) >= MOST_GROUPINGS:
            return
        groups = grouping(kinds, counts)
        splits = _searched(recipe, cluster, groups, objective, space, stack)
        found[counts] = [Candidate(each, counts, groups) for each in splits]

    for counts in first_counts(kinds, space):
        look(counts)
    best = _best(found)
    while space.groups or not few(kinds):
        for counts in neighbours(kinds, best[0].counts if best else next(iter(found))):
            look(counts)
        now = _best(found)
        if not now or (best and now[0].counts == best[0].counts):
            break
        best = now
    if not best:
        raise no_plan(recipe, cluster, space, stack)
    return best


def _best(found: dict[Counts, list[Candidate]]) -> list[Candidate]:
    """All candidates, the best first; of nearly equal ones that with the fewest blocks leads."""
    every = sorted((each for listed in found.values() for each in listed), key=_order)
    if not every:
        return []
    limit = every[0].found.score * (1 + SIMPLER)
    lead = min(
        (each for each in every if each.found.score <= limit),
        key=lambda each: (len(each.groups), _order(each)),
    )
    return [lead, *(each for each in every if each is not lead)]


def _order(candidate: Candidate) -> tuple[float, int, Counts]:
    return candidate.found.score, len(candidate.groups), candidate.counts


def _searched(
    recipe: Recipe,
    cluster: Cluster,
    groups: Sequence[Names],
    objective: Objective,
    space: Space,
    stack: Stack,
) -> list[Found]:
    """The best splits over some groups, with the groups by their places."""
    classes = block_classes(cluster, groups)
    evaluator = Evaluator(recipe, classes.blocks, classes.link, space=space, stack=stack)
    index = {names: place for place, names in enumerate(groups)}
    return [
        found._replace(split=_on_groups(found.split, classes, index))
        for found in SplitSearch(evaluator, classes, objective).run()[: 1 + KEPT_ALTERNATIVES]
    ]


def _on_groups(split: Split, classes: BlockClasses, index: Mapping[Names, int]) -> Split:
    """The split with every block of a class in place of the class, in order."""
    left = [iter(members) for members in classes.members]
    ordered = sorted(split, key=lambda replica: (-replica.num_samples, replica.stages))
    return tuple(
        replica._replace(
            stages=tuple(
                stage._replace(block=index[next(left[stage.block])]) for stage in replica.stages
            )
        )
        for replica in ordered
    )
