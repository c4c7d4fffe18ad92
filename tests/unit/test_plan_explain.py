"""Plans as people read them: golden texts, rewritten with MOTLEY_REWRITE_GOLDEN=1."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from motley.cluster import Cluster
from motley.plan.explain.explain import render, to_json
from motley.plan.search.search import search
from motley.recipe import Recipe
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


def shown(recipe: Recipe, cluster: Cluster) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=80, color_system=None, legacy_windows=False)
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


def test_the_json_has_the_shares_of_all_chips() -> None:
    recipe, cluster = CASES["plan_mixed"]
    table = json.loads(json.dumps(to_json(search(recipe, cluster), recipe, cluster)))
    assert table["source"] == "predicted"
    assert sum(chip["work_share"] for chip in table["chips"].values()) == pytest.approx(1)
    assert sum(chip["speed_share"] for chip in table["chips"].values()) == pytest.approx(1)
