"""`motley scale`, used well and badly: a file to compare with the one that it came from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from motley.recipe import load_recipe
from motley.recipe.packaged import packaged_recipe
from test_cli import DEMO_CLUSTER, RECIPE, fails, motley

ROOT = Path(__file__).parents[2]
COMMENTED = RECIPE.replace("layers = 1\n", "layers = 1   # shallow\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "recipe.toml").write_text(COMMENTED)
    (tmp_path / "text").mkdir()
    for index in range(12):
        words = " ".join(f"word{number} of text {index}" for number in range(200))
        (tmp_path / "text" / f"{index}.txt").write_text(words)
    return tmp_path


def test_a_recipe_at_another_size(folder: Path) -> None:
    words = ("scale", "recipe.toml", "--layers", "2", "--width", "64", "--batch", "32")
    result = motley(*words, "--out", "large.toml", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "optimizer.matrix_learning_rate = " in result.stdout
    assert "muP over width" in result.stdout
    large = load_recipe(folder / "large.toml")
    assert (large.model.layers, large.model.width, large.model.heads) == (2, 64, 8)
    assert large.batch.global_batch == 32
    text = (folder / "large.toml").read_text()
    assert "layers = 2  # shallow" in text
    assert "# muP over width" in text


def test_a_recipe_for_some_hours_of_a_cluster(folder: Path) -> None:
    words = ("scale", "recipe.toml", "--hours", "0.05", "--cluster", DEMO_CLUSTER, "--json")
    result = motley(*words, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "is large for a text of" in result.stderr
    changes = {
        f"{each['table']}.{each['key']}": each["value"]
        for each in json.loads(result.stdout)["changes"]
    }
    assert changes["model.width"] == 64 * changes.get("model.layers", 1)
    planned = motley("plan", "scaled.toml", "--cluster", DEMO_CLUSTER, "--json", cwd=folder)
    assert planned.returncode == 0, planned.stderr
    step_s = json.loads(planned.stdout)["step_s"]
    assert step_s * load_recipe(folder / "scaled.toml").schedule.steps <= 0.05 * 3600 * 1.05


def test_what_a_recipe_grows_from_starts_at_its_folder_too(folder: Path) -> None:
    (folder / "other").mkdir()
    (folder / "grown.toml").write_text(COMMENTED + '\n[growth]\nrun = "runs/small"\n')
    words = ("scale", "grown.toml", "--layers", "2")
    result = motley(*words, "--out", "deep.toml", cwd=folder)
    assert result.returncode == 0, result.stderr
    growth = load_recipe(folder / "deep.toml").growth
    assert growth is not None
    assert Path(growth.run) == (folder / "runs" / "small").resolve()
    bare = (folder / "grown.toml").read_text().replace('corpus = ["text"]', "")
    (folder / "grown.toml").write_text(bare)
    said = fails(motley(*words, "--out", "other/deep.toml", cwd=folder), 2)
    assert "runs/small, which starts at its own folder" in said


def test_a_model_named_by_a_path_starts_at_the_recipe_s_folder(folder: Path) -> None:
    (folder / "other").mkdir()
    shape = {"model_type": "gpt2", "n_layer": 2, "n_embd": 32, "n_head": 2, "vocab_size": 300}
    (folder / "shape").mkdir()
    (folder / "shape" / "config.json").write_text(json.dumps({**shape, "n_positions": 64}))
    for preset, refused in (("shape", True), ("shape/config.json", True), ("gpt2", False)):
        text = f'[model]\npreset = "{preset}"\n[batch]\nsequence_length = 64\n'
        (folder / "named.toml").write_text(text)
        result = motley("scale", "named.toml", "--batch", "8", "--out", "other/x.toml", cwd=folder)
        if refused:
            assert f"{preset}, which starts at its own folder" in fails(result, 2)
        else:
            assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("scale recipe.toml", 2, "nothing to scale to"),
        ("scale recipe.toml --hours 1 --layers 2", 2, "at once"),
        ("scale recipe.toml --hours 0", 2, "above zero"),
        ("scale recipe.toml --width 100", 11, "no multiple of a head's size"),
        ("scale recipe.toml --layers 2 --out other/scaled.toml", 2, "starts at its own folder"),
        ("scale inline.toml --layers 2", 11, "cannot be changed line by line"),
        ("scale none.toml --layers 2", 11, "no such file"),
    ],
)
def test_what_the_user_got_wrong(folder: Path, arguments: str, code: int, message: str) -> None:
    (folder / "other").mkdir()
    (folder / "inline.toml").write_text("model = { layers = 1, width = 16, heads = 2 }\n")
    assert message in fails(motley(*arguments.split(), cwd=folder), code)
    assert not (folder / "scaled.toml").exists()


def test_the_packaged_recipes_are_those_of_the_folder() -> None:
    for path in (ROOT / "recipes").glob("*.toml"):
        assert packaged_recipe(path.stem).read_text() == path.read_text()


def test_without_a_recipe_the_frugal_one_is_scaled(folder: Path) -> None:
    result = motley("scale", "--steps", "50", cwd=folder)
    assert result.returncode == 0, result.stderr
    scaled, frugal = load_recipe(folder / "scaled.toml"), load_recipe(packaged_recipe())
    assert scaled.schedule.steps == 50
    assert scaled.model == frugal.model
