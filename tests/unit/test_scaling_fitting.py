"""A recipe scaled to hours of a cluster fills them, whatever the cluster's memory holds of it."""

from __future__ import annotations

import dataclasses

import pytest

from motley.cluster import Cluster
from motley.plan.advice.fitting import fitted
from motley.plan.advice.laws import MOST_EPOCHS
from motley.plan.search.search import search
from motley.recipe import Recipe
from plan_cases import ROOMY, least_memory, make_cluster, make_recipe

HOURS = 1.0


def filled(recipe: Recipe, cluster: Cluster) -> float:
    """The share of the hours that the recipe's steps take."""
    return recipe.schedule.steps * search(recipe, cluster).step_s / 3600 / HOURS


@pytest.mark.parametrize(("memory", "layers"), [(ROOMY, 3), (2.5e7, 2), (1e7, 1)])
def test_the_hours_are_filled_at_the_size_that_fits(memory: float, layers: int) -> None:
    cluster = make_cluster([1e11], [memory])
    scaled = fitted(make_recipe(layers=2, global_batch=8), cluster, HOURS, None).recipe
    assert scaled.model.layers == layers
    assert 0.99 <= filled(scaled, cluster) <= 1


def test_a_model_that_memory_made_smaller_does_not_repeat_a_text_beyond_use() -> None:
    corpus = 2_000_000
    cluster = make_cluster([1e11], [1e7])
    scaled = fitted(make_recipe(layers=2, global_batch=8), cluster, HOURS, corpus).recipe
    tokens = scaled.schedule.steps * scaled.tokens_per_step
    assert 0.99 * MOST_EPOCHS * corpus <= tokens <= MOST_EPOCHS * corpus


def test_a_recipe_too_large_for_the_memory_is_made_smaller_by_whole_heads() -> None:
    recipe = make_recipe(layers=5, width=192)
    smaller = dataclasses.replace(recipe.model, layers=4, width=144, heads=3)
    memory = least_memory(dataclasses.replace(recipe, model=smaller))
    assert least_memory(recipe) > memory
    cluster = make_cluster([1e9], [memory])
    scaled = fitted(recipe, cluster, HOURS, None).recipe
    assert 0.95 <= filled(scaled, cluster) <= 1
