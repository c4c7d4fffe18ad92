"""What a step sends between sites: nothing that a chip must have from elsewhere is left out."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from motley.cluster import Cluster, parse_cluster
from motley.plan import even_data_parallel, even_pipeline
from motley.plan.memory.update import directions_bytes
from motley.plan.traffic import between_sites, usd_per_step
from motley.recipe import OptimizerConfig, Recipe
from plan_cases import make_recipe


def cluster(*sites: str) -> Cluster:
    """A chip for every word."""
    groups = [
        {"kind": "rtx-4090", "name": f"{site}{index}", "site": site, "network_gbit_per_s": 10}
        for index, site in enumerate(sites)
    ]
    path = {"gbit_per_s": 1, "latency_s": 0.02, "usd_per_gb": 0.1}
    links = [
        {"between": list(pair), **path} for pair in itertools.combinations(sorted(set(sites)), 2)
    ]
    return parse_cluster({"group": [{"count": 1, **each} for each in groups], "link": links})


def muon(recipe: Recipe, every: int = 1) -> Recipe:
    config = OptimizerConfig(kind="muon", orthogonal_every=every)
    return dataclasses.replace(recipe, optimizer=config)


def more_bytes(recipe: Recipe, made: Cluster) -> float:
    """What a data-parallel step sends because of Muon."""
    plan = even_data_parallel(recipe, made)
    plain = dataclasses.replace(recipe, optimizer=OptimizerConfig())
    with_it, without = (
        sum(sent.num_bytes for sent in between_sites(plan, each, made)) for each in (recipe, plain)
    )
    return with_it - without


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize(
    ("sites", "others"), [("xy", 1), ("xxy", 1), ("xyyxy", 1), ("xyz", 2), ("xxyz", 2), ("xx", 0)]
)
def test_every_direction_enters_every_other_site_once(sites: str, others: int, every: int) -> None:
    recipe = muon(make_recipe(), every)
    whole = directions_bytes(recipe, 0, recipe.model.num_layers)
    assert more_bytes(recipe, cluster(*sites)) == pytest.approx(others * whole)


def test_directions_have_their_price() -> None:
    made, recipe = cluster("x", "y"), muon(make_recipe())
    plan = even_data_parallel(recipe, made)
    total = sum(sent.num_bytes for sent in between_sites(plan, recipe, made))
    assert usd_per_step(plan, recipe, made) == (pytest.approx(0.1 * total / 1e9), ())


def test_a_matrix_with_one_holder_has_its_direction_at_home() -> None:
    made, recipe = cluster("x", "y"), make_recipe()
    plan = even_pipeline(recipe, made)
    sent = [list(between_sites(plan, each, made)) for each in (recipe, muon(recipe))]
    assert sent[0] == sent[1]
