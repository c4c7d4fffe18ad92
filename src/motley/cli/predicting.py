"""`motley predict`: what a given plan, or every line of a table of trainings, would give."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from motley.cli.output import print_json, say
from motley.errors import InputError


def run(
    plan_file: Path | None,
    recipe_name: str | None,
    cluster_file: Path | None,
    table: Path | None,
    out: Path | None,
    *,
    as_json: bool,
) -> None:
    """Either a table or a plan; `InputError` for both, neither, or half of one."""
    if (table is None) == (plan_file is None):
        raise InputError(
            "nothing to predict." if table is None else "--table and --plan at once.",
            remedy="Give --plan, --recipe and --cluster, or --table and --out.",
        )
    if table is not None:
        if recipe_name is not None or cluster_file is not None:
            raise InputError(
                "a table has its own models and chips.", remedy="Leave out --recipe and --cluster."
            )
        _table(table, out, as_json=as_json)
        return
    if recipe_name is None or cluster_file is None or out is not None:
        raise InputError(
            "--plan takes --recipe and --cluster, and writes no file.",
            remedy="Give --plan, --recipe and --cluster.",
        )
    assert plan_file is not None
    _plan(plan_file, recipe_name, cluster_file, as_json=as_json)


def _plan(plan_file: Path, recipe_name: str, cluster_file: Path, *, as_json: bool) -> None:
    from motley.cli.planning import known_recipe, show_plan
    from motley.cluster import load_cluster
    from motley.plan.explain.explain import to_json
    from motley.plan.given import predict_given
    from motley.plan.money import money_of
    from motley.plan.plan import load_plan
    from motley.units import size

    given = load_plan(plan_file)
    recipe, cluster = known_recipe(recipe_name), load_cluster(cluster_file)
    plan, lacking = predict_given(given, recipe, cluster)
    for lack in lacking:
        say(
            f"{lack.label} needs {size(lack.memory_bytes)} and has {size(lack.available_bytes)}: "
            "the plan does not fit, and its time is what it would take."
        )
    if as_json:
        data: dict[str, Any] = to_json(plan, recipe, cluster)
        data["fits"] = not lacking
        data["money"] = dataclasses.asdict(money_of(plan, recipe, cluster))
        print_json(data)
        return
    show_plan(plan, recipe, cluster)


def _table(table: Path, out: Path | None, *, as_json: bool) -> None:
    from motley.plan.published.table import predict_table

    if out is None:
        raise InputError("--table needs a file to write.", remedy="Give --out out.csv.")
    if out.exists() and table.exists() and out.samefile(table):
        raise InputError(f"--out {out} is the table itself.", remedy="Name another file.")
    summary = predict_table(table, out, say)
    if as_json:
        print_json(summary)
    else:
        say(f"Written to {out}.")
