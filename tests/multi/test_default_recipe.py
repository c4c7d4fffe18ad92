"""`motley train` without a recipe: the frugal one, scaled to the chips, trained for real."""

from __future__ import annotations

import json
from pathlib import Path

from motley.recipe import load_recipe
from motley.recipe.packaged import packaged_recipe
from motley.train.folder import open_run_folder
from test_cli import DEMO_CLUSTER, motley


def test_text_and_chips_are_enough(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    for index in range(40):
        words = " ".join(f"word{number % 90} of text {index}" for number in range(800))
        (tmp_path / "text" / f"{index}.txt").write_text(words)
    result = motley(
        "train", "--data", "text", "--hours", "0.0005", "--cluster", DEMO_CLUSTER, "--json",
        cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    for said in ("No recipe given", "scaled to 0.0005 h", "model.width = 64", "muP over width"):
        assert said in result.stderr
    assert json.loads(result.stdout)["state"] == "done"
    recipe = open_run_folder(tmp_path / "runs" / "frugal").recipe()
    frugal = load_recipe(packaged_recipe())
    assert recipe.optimizer.kind == frugal.optimizer.kind
    assert recipe.model.activation == frugal.model.activation
    assert recipe.model.layers < frugal.model.layers
