"""Plans as people read them: golden texts, rewritten with MOTLEY_REWRITE_GOLDEN=1."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from motley.cluster import Cluster
from motley.plan.explain.explain import render, to_json
from motley.plan.explain.rejected import explain_rejected
from motley.plan.search.build import Built, built, even_batch
from motley.plan.search.memo import Memo
from motley.plan.search.search import search
from motley.plan.simulate import cluster_evaluator
from motley.plan.stack import MOTLEY
from motley.recipe import Recipe
from motley.units import percent, size
from plan_cases import ETHERNET, ROOMY, make_cluster, make_recipe

GOLDEN = Path(__file__).with_name("golden")

CASES: dict[str, tuple[Recipe, Cluster]] = {
    "plan_one_chip": (make_recipe(), make_cluster([1e9])),
    "plan_mixed": (
        make_recipe(layers=12, width=128, global_batch=64),
        make_cluster([4e9, 2e9, 1e9, 1e9], link=ETHERNET),
    ),
    "plan_small_memory": (
        make_recipe(layers=12, width=128, global_batch=64),
        make_cluster([8e9, 4e9, 2e9, 1e9, 1e9], [ROOMY] * 3 + [3e7] * 2, ETHERNET),
    ),
}


def shown(recipe: Recipe, cluster: Cluster, width: int = 80) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, color_system=None, legacy_windows=False)
    console.print(render(search(recipe, cluster), recipe, cluster))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


@pytest.mark.parametrize("name", CASES)
def test_the_terminals_text_is_golden(name: str) -> None:
    path = GOLDEN / f"{name}.txt"
    text = shown(*CASES[name])
    assert max(len(line) for line in text.splitlines()) <= 80
    if os.environ.get("MOTLEY_REWRITE_GOLDEN") == "1":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [30, 40, 60])
def test_a_narrow_terminal_loses_no_figure(width: int) -> None:
    text = shown(*CASES["plan_small_memory"], width=width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    plan = search(*CASES["plan_small_memory"])
    for placement in plan.placements():
        stage = placement.stage
        assert size(stage.memory_bytes).split()[0] in text
        assert percent(stage.busy_share) in text


def test_a_reference_that_is_faster_or_dearer_is_told_as_that() -> None:
    recipe, cluster = make_recipe(global_batch=16), make_cluster([4e9, 1e9])
    evaluator = cluster_evaluator(recipe, cluster)
    groups = [(chip.name,) for chip in cluster.chips]
    even = built(evaluator, even_batch(evaluator), recipe, cluster, groups)
    best = even._replace(plan=search(recipe, cluster))

    def reason(chosen: Built, other: Built) -> str:
        plan = explain_rejected(chosen, [other], recipe, cluster, MOTLEY, Memo())
        return plan.rejected[0].reason

    gain = percent(1 - best.plan.step_s / even.plan.step_s)
    assert reason(even, best) == f"faster by {gain}: the search did not come upon it"
    assert reason(best, best) == "not faster than the chosen one"
    assert reason(best, even).startswith("slower by")
    cheap = even._replace(plan=dataclasses.replace(even.plan, usd_per_billion_tokens=1.0))
    dear = best._replace(plan=dataclasses.replace(best.plan, usd_per_billion_tokens=2.0))
    assert reason(cheap, dear) == "costs 100.0 % more"


def test_the_json_has_the_shares_of_all_chips() -> None:
    recipe, cluster = CASES["plan_mixed"]
    table = json.loads(json.dumps(to_json(search(recipe, cluster), recipe, cluster)))
    assert table["source"] == "predicted"
    assert sum(chip["work_share"] for chip in table["chips"].values()) == pytest.approx(1)
    assert sum(chip["speed_share"] for chip in table["chips"].values()) == pytest.approx(1)
