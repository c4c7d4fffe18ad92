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
from motley.plan.advice.laws import MOST_EPOCHS
from motley.plan.objective import SECONDS_PER_HOUR
from motley.plan.plan import Plan
from motley.plan.search.search import search
from motley.recipe import Recipe
from motley.recipe.transfer import Target, Transfer, transferred

MOST_ROUNDS = 4
"""Sizes beside each other run at nearly the same FLOP/s, so two rounds mostly agree."""


def fitted(recipe: Recipe, cluster: Cluster, hours: float, corpus_tokens: int | None) -> Transfer:
    """The best member of the recipe's family for `hours` of the cluster, and as many steps as fit
    and as its text is good for.

    `NoPlanError` if not even the smallest fits the memory, `ValueError` for a family without other
    sizes. The vocabulary must be known.
    """
    current, plan = _planned(recipe, Target(), cluster)
    advice = advise(current, budget_of(current, plan, hours), corpus_tokens)
    tried = {current.model}
    for _ in range(MOST_ROUNDS):
        current, plan = _planned(recipe, _target(advice.best), cluster)
        advice = advise(current, budget_of(current, plan, hours), corpus_tokens)
        if current.model in tried:
            break
        tried.add(current.model)
    most = hours * SECONDS_PER_HOUR / plan.step_s
    if corpus_tokens is not None:
        most = min(most, MOST_EPOCHS * corpus_tokens / current.tokens_per_step)
    steps = min(advice.own.steps, max(1, int(most)))
    return transferred(recipe, dataclasses.replace(_target(advice.own), steps=steps))


def _target(training: Training) -> Target:
    return Target(
        layers=training.model.layers,
        width=training.model.width,
        global_batch=training.global_batch,
        steps=training.steps,
    )


def _planned(recipe: Recipe, target: Target, cluster: Cluster) -> tuple[Recipe, Plan]:
    """The recipe at that size, or at the nearest smaller one that fits the cluster's memory: of the
    same proportions, to whole heads."""
    whole = transferred(recipe, target).recipe.model
    for layers in range(whole.layers, 0, -1):
        heads = max(1, whole.width * layers // whole.layers // whole.head_size)
        size = dataclasses.replace(target, layers=layers, width=heads * whole.head_size)
        scaled = transferred(recipe, size).recipe
        try:
            return scaled, search(scaled, cluster)
        except NoPlanError:
            if layers == 1:
                raise
    raise AssertionError("a model has a layer")
