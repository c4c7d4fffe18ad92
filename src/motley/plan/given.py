"""Predicts a plan that somebody gives, whoever made it and whether or not it fits."""

from __future__ import annotations

import dataclasses

from motley.cluster import Cluster
from motley.plan.plan import Plan, Stage
from motley.plan.search.build import with_predictions
from motley.plan.stack import MOTLEY, Stack
from motley.plan.validate import stage_needs, validate_structure
from motley.recipe import Recipe


def predict_given(
    plan: Plan, recipe: Recipe, cluster: Cluster, *, stack: Stack = MOTLEY
) -> tuple[Plan, tuple[Stage, ...]]:
    """The plan with predicted time, memory and busy shares, and its stages that do not fit.

    `PlanMismatchError` if it does not hold every layer and sample once, on chips of the cluster.
    Reasons and rejected splits of the search are left out: they were given for another prediction.
    """
    validate_structure(plan, recipe, cluster)
    replicas = []
    for replica in plan.replicas:
        stages = tuple(
            dataclasses.replace(
                stage, memory_bytes=need, available_bytes=cluster.chip(stage.chip).memory_bytes
            )
            for stage, need in zip(
                replica.stages, stage_needs(replica, recipe, cluster, stack=stack), strict=True
            )
        )
        replicas.append(dataclasses.replace(replica, stages=stages))
    used = set(plan.chips)
    bare = Plan(
        recipe_digest=recipe.digest,
        cluster_digest=cluster.digest,
        replicas=tuple(replicas),
        idle_chips=tuple(chip.name for chip in cluster.chips if chip.name not in used),
    )
    predicted = with_predictions(bare, recipe, cluster, stack=stack)
    held = (stage for replica in predicted.replicas for stage in replica.stages)
    return predicted, tuple(each for each in held if each.memory_bytes > each.available_bytes)
