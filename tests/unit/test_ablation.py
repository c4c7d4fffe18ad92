"""Ablations: what varies, which runs there are, what is claimed of them, and the page."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import pytest

from motley.ablation import (
    BASE,
    Outcome,
    Variant,
    changed,
    changes_of,
    compare,
    finished,
    from_settings,
    load_ladder,
    parse_changes,
    recipes_of,
    tasks_of,
    train_all,
    without_each,
    written,
)
from motley.ablation.changes import Changes
from motley.ablation.parts import ADAMW_MATRIX_RATE
from motley.cli.ablating import _reading, _table
from motley.cli.planning import show
from motley.cluster import load_cluster
from motley.data import prepare
from motley.errors import DivergedError, InputError, RecipeError, RunFolderError
from motley.events import EventLog
from motley.model.config import ModelConfig
from motley.optim.flops import training_flops
from motley.plan import search
from motley.recipe import Recipe, load_recipe
from motley.report.ablation_page import ablation_html
from motley.train.folder import RunFolder, create_run_folder
from page_browser import Outline

DEMO = Path(__file__).parents[2] / "clusters" / "demo.toml"
RECIPES = Path(__file__).parents[2] / "recipes"
RECIPE = Recipe(model=ModelConfig(layers=2, width=32, heads=2, context=256))
EVIL = '<script>alert("x")</script>'


def outcome(variant: str, seed: int, bits: float) -> Outcome:
    return Outcome(
        variant=variant, seed=seed, bits_per_byte=bits, curve=((10, bits + 1), (20, bits)),
        tokens=1000, flops=3e9 if variant == BASE else 6e9, training_s=2.5, path=Path("x"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer.learning_rate=0.003", {"optimizer.learning_rate": 0.003}),
        ("model.norm=rmsnorm, model.bias=false", {"model.norm": "rmsnorm", "model.bias": False}),
        ("data.corpus=[a.txt]", {"data.corpus": "[a.txt]"}),
        ('data.corpus=["a, b.txt", "c"],seed=3', {"data.corpus": ["a, b.txt", "c"], "seed": 3}),
        ("batch.global_batch=8", {"batch.global_batch": 8}),
    ],
)
def test_changes_are_read_as_toml_and_lone_words_as_texts(text: str, expected: Changes) -> None:
    assert parse_changes(text) == expected
    assert all(key in written(expected) for key in expected)


@pytest.mark.parametrize("text", ["", "model.norm", "model.norm=", "=3", "seed=1,seed=2"])
def test_what_is_no_change_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_changes(text)


def test_changes_reach_into_tables_and_are_checked_like_a_file() -> None:
    made = changed(RECIPE, {"model.norm": "rmsnorm", "schedule.steps": 7, "name": "x"})
    assert (made.model.norm, made.schedule.steps, made.name) == ("rmsnorm", 7, "x")
    assert dataclasses.replace(made, model=RECIPE.model, schedule=RECIPE.schedule,
                               name=RECIPE.name) == RECIPE  # fmt: skip
    assert changed(made, {"model.norm": "unset", "name": "unset"}).model == RECIPE.model
    with pytest.raises(RecipeError, match="learning_rte") as error:
        changed(RECIPE, {"optimizer.learning_rte": 1})
    assert "learning_rate" in error.value.remedy
    with pytest.raises(RecipeError, match="is a value"):
        changed(RECIPE, {"seed.x": 1})


def test_a_ladder_s_rungs_go_on_from_each_other(tmp_path: Path) -> None:
    path = tmp_path / "ladder.toml"
    path.write_text(
        '[[variant]]\nname = "a"\nset = { "model.norm" = "rmsnorm" }\n'
        '[[variant]]\nname = "b"\nafter = "a"\nset = { "optimizer.weight_decay" = 0.0 }\n'
    )
    variants = load_ladder(path)
    assert changes_of(variants, "b") == {"model.norm": "rmsnorm", "optimizer.weight_decay": 0.0}
    recipes = recipes_of(RECIPE, variants)
    assert list(recipes) == [BASE, "a", "b"]
    assert recipes["b"].model == recipes["a"].model != RECIPE.model


@pytest.mark.parametrize(
    ("variants", "said"),
    [
        ((Variant(name="a", after="b"), Variant(name="b", after="a")), "comes after itself"),
        ((Variant(name="a"), Variant(name="a")), "stands twice"),
        ((Variant(name="base", set={"seed": 1}),), "stands twice"),
        ((Variant(name="a", after="c"),), "no variant 'c'"),
        ((Variant(name="a", set={"model.norm": "layernorm"}),), "changes nothing"),
        ((Variant(name="a", set={"model.norn": "rmsnorm"}),), "variant 'a': .*unknown key 'norn'"),
        ((Variant(name="a", set={"model.norm": "rms"}),), "variant 'a'"),
    ],
)
def test_a_variant_that_cannot_be_is_named(variants: tuple[Variant, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        recipes_of(RECIPE, variants)


def test_an_unknown_key_of_a_ladder_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "ladder.toml"
    path.write_text('[[variant]]\nname = "a"\nsets = {}\n')
    with pytest.raises(InputError, match="unknown key 'sets'"):
        load_ladder(path)
    path.write_text("variant = []\n")
    with pytest.raises(InputError, match="names no variant"):
        load_ladder(path)


def test_without_a_ladder_each_technique_of_the_recipe_is_left_out_alone() -> None:
    frugal = load_recipe(RECIPES / "frugal.toml")
    said: list[str] = []
    variants = without_each(frugal, said.append)
    names = [variant.name.removeprefix("without ") for variant in variants]
    assert sorted(names) == sorted([
        "rotary positions", "RMSNorm", "norms of queries and keys", "zero start", "logit cap",
        "untied head", "input residual", "value residual", "tables", "relu2", "muon",
    ])  # fmt: skip
    assert said == []
    recipes = recipes_of(frugal, variants)
    muon = recipes["without muon"].optimizer
    assert (muon.kind, muon.peak_rate("matrix")) == ("adamw", 1.5e-3)
    assert muon.peak_rate("embedding") == frugal.optimizer.peak_rate("embedding")
    assert recipes["without tables"].model == dataclasses.replace(frugal.model, tables=None)
    rate = load_recipe(RECIPES / "gpt2-adamw.toml").optimizer.learning_rate
    assert rate == ADAMW_MATRIX_RATE


def test_a_part_that_another_needs_is_told_of_and_a_plain_recipe_has_none() -> None:
    said: list[str] = []
    growing = changed(RECIPE, {"schedule.decay": "wsd", "schedule.decay_share": 0.4})
    assert [variant.name for variant in without_each(growing, said.append)] == ["without wsd"]
    with pytest.raises(InputError, match="no technique to leave out"):
        without_each(RECIPE, said.append)


def test_each_seed_goes_through_all_variants_and_every_run_has_a_folder_of_its_own() -> None:
    variants = from_settings(["seed=1", "model.norm=rmsnorm", "optimizer.weight_decay=0.0"])
    names = {"a/b": RECIPE, "a b": RECIPE, "..": RECIPE, BASE: RECIPE}
    tasks = tasks_of(names, range(2), Path("out"))
    assert [task.seed for task in tasks] == [0] * 4 + [1] * 4
    assert len({task.path for task in tasks}) == 8
    assert all(task.path.parent.parent == Path("out") for task in tasks)
    assert [variant.name for variant in variants][1] == "model.norm=rmsnorm"


def test_only_a_run_that_came_to_its_end_counts(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, schedule=dataclasses.replace(RECIPE.schedule, steps=2))
    (task,) = tasks_of({BASE: recipe}, [3], tmp_path)
    assert finished(task) is None
    folder, cluster = create_run_folder(task.path), load_cluster(DEMO)
    resolved = task.recipe.with_vocabulary(512)
    text = tmp_path / "text.txt"
    text.write_text("some text to prepare, a line of it\n" * 200)
    data = prepare((str(text),), None, 300, 0.2, tmp_path / "cache", lambda line: None)
    folder.write(resolved, cluster, search(resolved, cluster), data.folder)
    assert finished(task) is None
    with EventLog.open(folder.events) as log:
        log.write("step", step=1, tokens=10, step_s=9.0, loss=1.0)
        log.write("step", step=1, tokens=10, step_s=1.0, loss=1.0)  # done again after a stop
        log.write("step", step=2, tokens=10, step_s=2.0, loss=1.0)
        log.write("validation", step=2, loss=1.0, bits_per_byte=1.5, seconds=1.0)
        assert finished(task) is None
        log.write("run_finished", step=2, reason="done", seconds=3.0)
    found = finished(task)
    assert found is not None
    assert (found.bits_per_byte, found.tokens, found.training_s) == (1.5, 20, 3.0)
    assert found.curve == ((2, 1.5),)
    assert found.flops == training_flops(resolved)
    other = dataclasses.replace(task, recipe=changed(task.recipe, {"optimizer.learning_rate": 0.5}))
    with pytest.raises(RunFolderError, match="another recipe"):
        finished(other)


def test_what_diverged_is_not_trained_again_unless_it_came_to_its_end_after_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "text").mkdir()
    for number in range(40):
        words = " ".join(f"word{number * index % 17}" for index in range(60))
        (tmp_path / "text" / f"{number}.txt").write_text(words)
    corpus = {"data.corpus": [str(tmp_path / "text")], "data.vocab_size": 300}
    tasks = tasks_of({BASE: changed(RECIPE, corpus)}, [0], tmp_path / "out")
    trained: list[Path] = []

    def diverges(folder: RunFolder) -> None:
        trained.append(folder.path)
        with EventLog.open(folder.events) as log:
            log.write("run_finished", step=3, reason="failed", seconds=None)
        raise DivergedError("the loss is not finite at step 3.")

    for _ in range(2):
        (outcome,) = train_all(tasks, load_cluster(DEMO), diverges, lambda text: None)
        assert outcome is not None
        assert outcome.bits_per_byte == math.inf
    assert trained == [tasks[0].path]
    other = dataclasses.replace(tasks[0], recipe=changed(tasks[0].recipe, {"seed": 9}))
    with pytest.raises(RunFolderError, match="another recipe"):
        finished(other)
    with EventLog.open(tasks[0].path / "events.jsonl") as log:
        log.write("validation", step=300, loss=1.0, bits_per_byte=1.5, seconds=1.0)
        log.write("run_finished", step=300, reason="done", seconds=3.0)
    resumed = finished(tasks[0])
    assert resumed is not None
    assert resumed.bits_per_byte == 1.5


@pytest.mark.parametrize(
    ("base", "variant", "seeds", "said"),
    [
        (2.0, 1.9, 1, "give --seeds 3"),
        (math.inf, 1.9, 3, "the recipe itself diverged"),
        (math.inf, 1.9, 1, "the recipe itself diverged"),
        (2.0, math.inf, 3, "every variant diverged"),
        (2.0, 1.9, 3, "measured; lower is better"),
    ],
)
def test_what_is_said_below_the_table(base: float, variant: float, seeds: int, said: str) -> None:
    runs = [
        outcome(name, seed, mean + 0.01 * seed)
        for name, mean in ((BASE, base), ("x", variant))
        for seed in range(seeds)
    ]
    text = _reading(compare(runs, [BASE, "x"]))
    assert said in text
    assert ("--seeds" in text) == (said == "give --seeds 3")


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_no_terminal_is_too_narrow_for_the_verdict(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    name = "without norms of queries and keys"
    runs = [
        outcome(variant, seed, mean + 0.01 * seed)
        for variant, mean in ((BASE, 2.0), (name, 2.5))
        for seed in range(3)
    ]
    show(_table(compare(runs, [BASE, name])))
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert all(len(line.rstrip()) <= columns for line in shown.splitlines())
    for figure in ("2.0100 ± 0.0248", "+0.5000 ± 0.0227", "2.00x", "1.00x", "higher"):
        assert figure in shown


def test_noise_is_called_noise_and_one_seed_claims_nothing() -> None:
    runs = [outcome(BASE, seed, 2.0 + 0.01 * seed) for seed in range(3)]
    runs += [outcome("better", seed, 1.9 + 0.01 * seed) for seed in range(3)]
    runs += [outcome("worse", seed, 2.1 + 0.01 * seed) for seed in range(3)]
    runs += [outcome("same", seed, 2.001 + 0.012 * seed) for seed in range(3)]
    runs += [outcome("once", 0, 0.5)]
    runs += [outcome("gone", seed, math.inf if seed else 2.0) for seed in range(3)]
    names = [BASE, "better", "worse", "same", "once", "gone", "not run"]
    rows = {row.variant: row for row in compare(runs, names)}
    assert {name: row.verdict for name, row in rows.items()} == {
        BASE: "base", "better": "lower", "worse": "higher", "same": "noise",
        "once": "no claim", "gone": "diverged",
    }  # fmt: skip
    assert rows["better"].difference is not None
    assert rows["better"].difference.mean == pytest.approx(-0.1)
    assert (rows["better"].flops_ratio, rows["better"].time_ratio) == (2.0, 1.0)
    assert rows["gone"].flops_ratio is rows[BASE].flops_ratio is None
    assert rows["once"].difference is rows["once"].interval is None


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_page_is_whole_and_escapes_names(seeds: int) -> None:
    names = [BASE, EVIL, *(f"variant {number}" for number in range(9)), "gone"]
    runs = [
        outcome(name, seed, math.inf if name == "gone" else 2.0 + 0.01 * seed - 0.02 * index)
        for index, name in enumerate(names)
        for seed in range(seeds)
    ]
    page = ablation_html("my recipe", compare(runs, names), runs)
    outline = Outline(page)
    assert outline.open == []
    assert {"differences", "curves", "runs"} <= set(outline.ids)
    assert outline.links == []
    assert EVIL not in page
    assert not re.search(r"[\"' :](nan|inf)[\"'%;, ]|None", page)
