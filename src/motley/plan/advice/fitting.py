"""A recipe scaled to what a cluster computes in a given time.

    transfer = fitted(recipe, cluster, hours=3, corpus_tokens=7_200_000)

The advice says which size to train with a compute, and the size says at which FLOP/s a cluster
runs: the two are tried in turn until they agree. Rates and decay go along (`recipe.transfer`).
"""

from __future__ import annotations

import dataclasses

from motley.cluster import Cluster
from motley.errors import NoPlanError
from motley.plan.advice.advice import Training, advise, budget_of
from motley.plan.objective import SECONDS_PER_HOUR
from motley.plan.plan import Plan
from motley.plan.search.search import search
from motley.recipe import Recipe
from motley.recipe.transfer import Target, Transfer, transferred

MOST_ROUNDS = 4
"""Sizes beside each other run at nearly the same FLOP/s, so two rounds mostly agree."""


def fitted(recipe: Recipe, cluster: Cluster, hours: float, corpus_tokens: int | None) -> Transfer:
    """The best member of the recipe's family for `hours` of the cluster, and as many steps as fit.

    `NoPlanError` if not even the smallest fits the memory, `ValueError` for a family without other
    sizes. The vocabulary must be known.
    """
    current, plan = _planned(recipe, Target(), cluster)
    for _ in range(MOST_ROUNDS):
        best = advise(current, budget_of(current, plan, hours), corpus_tokens).best
        same = best.model.layers == current.model.layers
        current, plan = _planned(recipe, _target(best), cluster)
        if same:
            break
    in_time = max(1, int(hours * SECONDS_PER_HOUR / plan.step_s))
    target = dataclasses.replace(_size_of(current), steps=min(current.schedule.steps, in_time))
    return transferred(recipe, target)


def _target(best: Training) -> Target:
    return Target(
        layers=best.model.layers,
        width=best.model.width,
        global_batch=best.global_batch,
        steps=best.steps,
    )


def _size_of(recipe: Recipe) -> Target:
    return Target(
        layers=recipe.model.layers,
        width=recipe.model.width,
        global_batch=recipe.batch.global_batch,
        steps=recipe.schedule.steps,
    )


def _planned(recipe: Recipe, target: Target, cluster: Cluster) -> tuple[Recipe, Plan]:
    """The recipe at that size, or at the nearest smaller one that fits the cluster's memory."""
    while True:
        scaled = transferred(recipe, target).recipe
        try:
            return scaled, search(scaled, cluster)
        except NoPlanError:
            layers = scaled.model.layers - 1
            if layers < 1:
                raise
            width = scaled.model.width * layers // scaled.model.layers
            target = dataclasses.replace(target, layers=layers, width=width)
