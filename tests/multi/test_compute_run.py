"""A run of the benchmark of compute that prepares before it trains: it grows from a shallower run
and selects its samples. What both cost is in its record, and the record is found again."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from motley.optim.flops import selection_flops, training_flops
from motley.recipe import parse_recipe

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TOKENS = 4096
TABLES = ("growth", "selection")
"""What is done before the training."""


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The benchmark's modules, with a small text, a cache and results of the test's own."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    modules = {name: importlib.import_module(f"compute_{name}") for name in ("ladder", "runs")}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(modules["ladder"], "corpus_folder", lambda name: tmp_path / name)
    monkeypatch.setattr(modules["runs"], "RESULTS", tmp_path / "results")
    for name in ("python", "results"):
        (tmp_path / name).mkdir()
    for number in range(60):
        text = " ".join(f"word{number * index % 17}" for index in range(300))
        (tmp_path / "python" / f"{number}.txt").write_text(text)
    return modules


def test_what_comes_before_the_training_is_in_the_record(harness: Any) -> None:
    ladder, runs = harness["ladder"], harness["runs"]
    shape = ladder.Size(layers=2, width=32, heads=1, vocab_size=300, horizon_tokens=TOKENS)
    selection = {"keep_share": 0.5, "layers": 1, "width": 16, "heads": 1, "reference_batch": 1}
    spec = ladder.Spec(
        rung="x", size="XXS", corpus="python", seed=0, share=1.0, horizon_tokens=TOKENS,
        changes={
            "batch.global_batch": 2, "share:schedule.warmup_steps": 0.25,
            **{f"selection.{key}": value for key, value in selection.items()},
        },
        small=ladder.Small(layers={"XXS": 1}, share=0.5, set={"schedule.decay": "constant"}),
    )  # fmt: skip
    job = runs.ready(spec, {"XXS": shape}, runs.Host(device="cpu", precision="fp32", threads=1))
    assert job.small.recipe.model.layers == 1
    assert job.small.recipe.schedule.steps == job.recipe.schedule.steps // 2 == 4
    record = runs.run(job)
    assert runs.kept()[job.key]["bits_per_byte"] == record["bits_per_byte"]
    assert not job.folder.path.exists()
    assert not job.small.folder.path.exists()
    recipe = parse_recipe(record["recipe"])
    assert recipe.growth is not None
    assert recipe.growth.run == job.recipe.growth.run
    bare = parse_recipe({k: v for k, v in record["recipe"].items() if k not in TABLES})
    alone = parse_recipe({
        **{k: v for k, v in record["recipe"].items() if k != "growth"},
        "model": {**record["recipe"]["model"], "layers": 1},
        "schedule": {**record["recipe"]["schedule"], "steps": 4, "decay": "constant"},
    })  # fmt: skip
    counted = training_flops(bare) + selection_flops(recipe) + training_flops(alone)
    assert record["flops"]["total"] == pytest.approx(counted, rel=1e-12)
    assert record["process_s"] > 0
