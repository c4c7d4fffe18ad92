"""`motley plan`: the chosen split, what it is predicted to give, and what lost against it."""

from __future__ import annotations

from pathlib import Path

from motley.cli.output import print_json, say
from motley.cli.probing import measure
from motley.cluster import Cluster, load_cluster
from motley.errors import StorageError
from motley.plan.plan import Plan
from motley.plan.search import search
from motley.recipe import Recipe, load_recipe
from motley.train.prepare import prepare_data


def run(recipe_file: Path, cluster_file: Path | None, out: Path, *, as_json: bool) -> None:
    """Plans, prints, writes `out`."""
    recipe = load_recipe(recipe_file)
    cluster = cluster_for(cluster_file)
    recipe, _ = prepare_data(recipe, say)
    plan = search(recipe, cluster)
    try:
        plan.save(out)
    except OSError as cause:
        raise StorageError(f"{out} cannot be written: {cause}.", remedy="Name another.") from None
    if as_json:
        print_json(plan.to_dict())
        return
    show_plan(plan, recipe, cluster)
    say(f"Written to {out}.")


def show_plan(plan: Plan, recipe: Recipe, cluster: Cluster) -> None:
    """The plan as tables."""
    from rich.console import Console

    from motley.plan.explain import render

    Console().print(render(plan, recipe, cluster))


def cluster_for(path: Path | None) -> Cluster:
    """The cluster of the file; without one, this machine's chips, measured now."""
    if path is not None:
        return load_cluster(path)
    say("No cluster given: measuring this machine.")
    return measure()[1]
