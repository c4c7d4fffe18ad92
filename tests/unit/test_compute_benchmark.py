"""The harness that compares compute: keys of runs, the ladder's file, claims, and what may not be
claimed."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from motley.ablation.changes import changed
from motley.errors import InputError
from motley.model.config import ModelConfig
from motley.recipe import CheckpointConfig, DataConfig, Recipe, load_recipe

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def harness() -> Any:
    """The benchmark's modules, which lie outside the package."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield {
            name: importlib.import_module(f"compute_{name}" if name else "compute")
            for name in ("", "ladder", "runs", "claims", "parts", "corpora")
        }
    finally:
        sys.path.remove(str(BENCHMARKS))


RECIPE = Recipe(model=ModelConfig(layers=2, width=32, heads=2, context=256, vocab_size=300))


def runs(
    mean: float, *, flops: float, seconds: float, count: int = 5
) -> tuple[dict[str, Any], ...]:
    return tuple(
        {
            "seed": seed, "bits_per_byte": mean + 0.001 * seed, "tokens": 1000,
            "flops": {"model": flops, "optimizer": flops / 10, "total": flops},
            "parameters": {"total": 1, "active": 1}, "process_s": seconds * (1 + seed / 10),
            "wall_s": seconds, "machine": "m", "threads": 1, "device": "cpu", "precision": "fp32",
            "commit": "c",
        }
        for seed in range(count)
    )  # fmt: skip


def test_a_wrong_name_is_one_message_and_not_a_trace() -> None:
    command = [sys.executable, str(BENCHMARKS / "compute.py"), "--size", "XXL"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == InputError.exit_code
    assert ended.stderr.splitlines() == ["error: no size 'XXL'.", "Did you mean 'L'?"]


def test_a_key_is_of_what_must_give_the_same_figures(harness: dict[str, ModuleType]) -> None:
    def key(
        recipe: Recipe, digest: str = "d", precision: str = "fp32", loop: str = "motley"
    ) -> str:
        return str(harness["runs"].key_of(recipe, digest, precision, loop))

    moved = dataclasses.replace(
        RECIPE, name="other", checkpoint=CheckpointConfig(every_steps=7),
        data=DataConfig(corpus=("/elsewhere",)),
    )  # fmt: skip
    assert key(moved) == key(RECIPE)
    others = [
        key(dataclasses.replace(RECIPE, seed=1)),
        key(dataclasses.replace(RECIPE, data=DataConfig(vocab_size=500))),
        key(RECIPE, digest="e"),
        key(RECIPE, precision="bf16"),
        key(RECIPE, loop="plain"),
    ]
    assert len({key(RECIPE), *others}) == 6


def test_the_plain_loop_is_kept_as_what_it_is(
    harness: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """fp32 on the CPU, whatever the other rungs of the call run on."""
    ladder, kept_runs = harness["ladder"], harness["runs"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(ladder, "corpus_folder", lambda name: tmp_path / name)
    (tmp_path / "python").mkdir()
    for number in range(40):
        text = " ".join(f"word{number * index % 17}" for index in range(90))
        (tmp_path / "python" / f"{number}.txt").write_text(text)
    shape = ladder.Size(layers=1, width=32, heads=1, vocab_size=300, horizon_tokens=8192)
    hosts = [
        kept_runs.Host(device=device, precision=precision, threads=1)
        for device, precision in (("cpu", "fp32"), ("cuda", "bf16"))
    ]
    for loop in ("plain", "motley"):
        spec = ladder.Spec(
            rung="x", size="XXS", corpus="python", seed=0, share=1.0, horizon_tokens=8192,
            changes={}, loop=loop,
        )  # fmt: skip
        here, there = (kept_runs.ready(spec, {"XXS": shape}, host) for host in hosts)
        assert (here.key == there.key) == (loop == "plain")
        if loop == "plain":
            there.folder.path.mkdir(parents=True)
            seconds = {"process_s": 1.0, "wall_s": 2.0}
            (there.folder.path / kept_runs.RESULT).write_text(json.dumps(seconds))
            record = kept_runs._record(there)
            assert (record["device"], record["precision"]) == ("cpu", "fp32")
            assert record["machine"] == hosts[0].name


@pytest.mark.parametrize(
    ("size", "only", "said", "near"),
    [
        ("XL", None, "no size 'XL'", "Did you mean"),
        ("S", ["blok"], "no part 'blok'", "block"),
        ("S", ["b1", "sweep:b2"], "no part 'sweep:b2'", "sweep:b1"),
    ],
)
def test_what_the_ladder_does_not_have_is_named(
    harness: dict[str, ModuleType], size: str, only: list[str] | None, said: str, near: str
) -> None:
    chosen = argparse.Namespace(
        size=[size], corpus=["python"], only=only, seeds=1, horizon_tokens=None, share=None
    )
    with pytest.raises(InputError, match=said) as error:
        harness[""].wanted(harness["ladder"].load(), chosen)
    assert near in error.value.remedy


@pytest.mark.parametrize(
    ("rung", "name", "shipped"),
    [
        ("b1", "gpt2-adamw", {"optimizer.learning_rate": 1.5e-3}),
        ("ngrams", "frugal", {"optimizer.orthogonal_every": 2, "model.tables.rows": 65536}),
    ],
)
def test_the_recipes_are_rungs_of_the_ladder(
    harness: dict[str, ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    rung: str,
    name: str,
    shipped: dict[str, Any],
) -> None:
    """But for batch and schedule, and what a larger batch and less memory ask for."""
    ladder = harness["ladder"]
    monkeypatch.setattr(ladder, "corpus_folder", lambda text: Path("/texts") / text)
    table, recipe = ladder.load(), load_recipe(ROOT / "recipes" / f"{name}.toml")
    specs = ladder.rung_specs(table, "M", "python", 1, None)
    (spec, *_) = (spec for spec in specs if spec.rung == rung)
    measured = ladder.recipe_of(dataclasses.replace(spec, share=1.0), table.size)
    measured = changed(measured, shipped)
    for section in ("model", "optimizer"):
        assert getattr(measured, section) == getattr(recipe, section)


def test_every_rung_sweep_and_left_out_part_makes_a_recipe(
    harness: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    ladder = harness["ladder"]
    monkeypatch.setattr(ladder, "corpus_folder", lambda name: Path("/texts") / name)
    table = ladder.load()
    assert table.baseline in [rung.name for rung in table.variant]
    for size, corpus in zip(table.size, ("python", "prose", "prose", "python"), strict=True):
        specs = list(ladder.rung_specs(table, size, corpus, 1, None))
        for sweep in table.sweep:
            specs += ladder.sweep_specs(table, sweep.name, size, corpus, None)
        specs += ladder.without_specs(table, size, corpus, 1, None)
        for spec in specs:
            recipe = ladder.recipe_of(spec, table.size)
            tokens = recipe.schedule.steps * recipe.tokens_per_step
            wanted = spec.share * spec.horizon_tokens
            assert wanted <= tokens < wanted + recipe.tokens_per_step
            assert recipe.batch.sequence_length == ladder.CONTEXT


def test_what_is_tuned_for_a_size_holds_for_the_rungs_after(
    harness: dict[str, ModuleType],
) -> None:
    ladder = harness["ladder"]
    rungs = (
        ladder.Rung(name="a", set={"x": 1, "y": 1}, tuned={"S": {"x": 2}, "S prose": {"x": 3}}),
        ladder.Rung(name="b", after="a", set={"y": 5}, tuned={"prose": {"z": 9}}),
    )
    table = ladder.ComputeLadder(baseline="a", size={}, variant=rungs)
    assert ladder.changes_for(table, "b", "M", "python") == {"x": 1, "y": 5}
    assert ladder.changes_for(table, "b", "S", "python") == {"x": 2, "y": 5}
    assert ladder.changes_for(table, "b", "S", "prose") == {"x": 3, "y": 5, "z": 9}
    with pytest.raises(InputError, match="no sweep"):
        list(ladder.sweep_specs(table, "none", "S", "prose", 1000))


def test_a_multiplier_needs_five_seeds_and_a_mean_that_is_lower_for_sure(
    harness: dict[str, ModuleType],
) -> None:
    claims = harness["claims"]
    base = claims.Group("b1", 1.0, runs(2.0, flops=9e12, seconds=90.0))
    better = claims.Group("x", 0.25, runs(1.9, flops=3e12, seconds=45.0))
    found = claims.row(better, base)
    assert found["multiplier"] == pytest.approx(3.0)
    assert found["process_seconds_ratio"] == pytest.approx(2.0)
    assert found["p"] < 0.01
    few = claims.row(claims.Group("x", 0.25, runs(1.9, flops=3e12, seconds=45.0, count=4)), base)
    assert few["multiplier"] is few["reaches_target"] is None
    near = claims.row(claims.Group("x", 0.25, runs(1.9995, flops=3e12, seconds=45.0)), base)
    assert near["reaches_target"] is False
    assert near["multiplier"] is None
    whole = claims.summary([found, few, near], base)
    assert (whole["rung"], whole["multiplier"]) == ("x", pytest.approx(3.0))
    assert claims.summary([], None)["multiplier"] is None
    json.dumps(whole, allow_nan=False)


def test_kept_runs_are_read_with_todays_keys(harness: dict[str, ModuleType]) -> None:
    """Every line that is kept must still be found by the recipe that made it."""
    lines = [
        json.loads(line)
        for path in sorted(harness["runs"].RESULTS.glob("runs-*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    found = harness["runs"].kept()
    assert len(found) == len({json.dumps([r["recipe"], r["corpus_digest"], r.get("loop")])
                              for r in lines})  # fmt: skip
    for record in found.values():
        assert record["flops"]["total"] >= record["flops"]["model"] > 0
        assert 0 < record["bits_per_byte"] < 20


def test_prose_is_what_stands_under_documentation_without_tags(
    harness: dict[str, ModuleType],
) -> None:
    corpora = harness["corpora"]
    model = {
        "documentation": "<p>All of  it</p>",
        "shapes": [{"documentation": "one &lt;b&gt;"}, {"documentation": {"documentation": "two"}}],
        "name": "not prose",
    }
    found = [corpora._plain(text) for text in corpora._documentation(model)]
    assert found == ["All of it", "one <b>", "two"]
    assert corpora._BLOCKS.split("<p>a</p><P class='x'>b<pre>c") == ["", "a", "", "b<pre>c"]
    assert all(len(digest) == 64 for digest in corpora.PINNED.values())


def test_a_part_is_worth_the_flops_that_would_be_needed_without_it(harness: Any) -> None:
    """A loss of 3 - 0.5 ln(FLOPs) with the part, and 0.1 more without: e^0.2 times the FLOPs."""
    claims, ladder = harness["claims"], harness["ladder"].load()
    stack = ladder.stack.rung

    def group(rung: str, flops: float, above: float) -> Any:
        mean = 3 - 0.5 * math.log(flops) + above
        return claims.Group(rung, 1 / flops, runs(mean, flops=flops, seconds=1.0))

    part = next(iter(ladder.stack.without))
    groups = [group(stack, 2.0, 0.0), group(stack, 4.0, 0.0)]
    groups.append(group(f"{stack} without {part}", 2.0, 0.1))
    (found,) = harness["parts"].part_rows(ladder, groups)
    assert found["part"] == part
    assert found["bits_saved"] == pytest.approx(0.1)
    assert found["worth"] == pytest.approx([math.exp(0.2)] * 3)


def test_a_part_with_one_seed_has_no_worth(harness: Any) -> None:
    claims, ladder = harness["claims"], harness["ladder"].load()
    rung = next(each for each in ladder.variant if each.after)
    one = runs(2.0, flops=1.0, seconds=1.0, count=1)
    groups = [claims.Group(rung.name, 0.5, one), claims.Group(rung.after, 0.5, one)]
    (found,) = harness["parts"].part_rows(ladder, groups)
    assert found["worth"] is None
    assert "one seed" in harness["parts"].parts_as_text([found])
