"""The recipe: read back as written, strict about keys and ranges, told apart by its digest."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley.errors import RecipeError
from motley.model.config import ModelConfig
from motley.model.presets import PRESETS
from motley.recipe import (
    BatchConfig,
    CheckpointConfig,
    DataConfig,
    OptimizerConfig,
    Recipe,
    ScheduleConfig,
    ValidationConfig,
    load_recipe,
    parse_recipe,
)

ROOT = Path(__file__).parents[2]
MODEL = {"layers": 2, "width": 32, "heads": 4, "context": 64}
SMALL = {"model": MODEL, "batch": {"sequence_length": 64}}


def table(section: str = "", **values: Any) -> dict[str, Any]:
    """A small recipe's tables with some values changed."""
    if not section:
        return {**SMALL, **values}
    return {**SMALL, section: {**SMALL.get(section, {}), **values}}


def refused(tables: dict[str, Any]) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(tables)
    return str(caught.value)


positive_floats = st.floats(min_value=1e-9, max_value=10)
shares = st.floats(min_value=0, max_value=1)
counts = st.integers(min_value=1, max_value=10**6)
names = st.text(min_size=1, max_size=8)

models = st.builds(
    lambda head_width, key_value_heads, group, **rest: ModelConfig(
        heads=key_value_heads * group,
        key_value_heads=key_value_heads if group > 1 else None,
        head_width=2 * head_width,
        **rest,
    ),
    head_width=st.integers(1, 64),
    key_value_heads=st.integers(1, 8),
    group=st.integers(1, 4),
    layers=st.integers(1, 99),
    width=st.integers(1, 4096),
    mlp_width=st.none() | counts,
    context=st.integers(64, 4096),
    vocab_size=st.none() | counts,
    positions=st.sampled_from(["learned", "rotary"]),
    norm=st.sampled_from(["layernorm", "rmsnorm"]),
    activation=st.sampled_from(["gelu", "swiglu", "relu2"]),
    bias=st.booleans(),
    tied_head=st.booleans(),
)
recipes = st.builds(
    Recipe,
    name=st.from_regex(r"[\w][\w. +-]{0,8}", fullmatch=True).filter(str.isprintable),
    seed=st.integers(0, 2**63),
    model=models,
    data=st.builds(
        DataConfig,
        corpus=st.lists(names, min_size=1, max_size=3).map(tuple),
        tokenizer=st.none() | names,
        vocab_size=st.integers(257, 10**6),
        held_out_share=st.floats(min_value=0.001, max_value=0.999),
    ),
    batch=st.builds(BatchConfig, sequence_length=st.integers(1, 64), global_batch=counts),
    optimizer=st.builds(
        OptimizerConfig,
        learning_rate=positive_floats,
        beta1=st.floats(min_value=0, max_value=1, exclude_max=True),
        epsilon=positive_floats,
        weight_decay=st.floats(min_value=0, max_value=10),
    ),
    schedule=st.builds(
        ScheduleConfig,
        steps=counts,
        warmup_steps=st.integers(0, 100),
        decay=st.sampled_from(["cosine", "linear", "constant"]),
        final_share=shares,
    ),
    validation=st.builds(ValidationConfig, every_steps=counts, max_samples=counts),
    checkpoint=st.builds(CheckpointConfig, every_steps=counts, keep=counts),
)


@given(recipes)
def test_a_recipe_is_read_back_as_it_was_written(recipe: Recipe) -> None:
    written = json.loads(json.dumps(recipe.to_dict()))
    assert parse_recipe(written) == recipe
    assert parse_recipe(written).digest == recipe.digest


@given(recipes, recipes)
def test_the_digest_is_that_of_the_content(first: Recipe, second: Recipe) -> None:
    assert (first.digest == second.digest) == (first == second)


@pytest.mark.parametrize("section", ["data", "batch", "optimizer", "schedule", "validation"])
def test_the_digest_changes_with_every_section(section: str) -> None:
    changes: dict[str, dict[str, Any]] = {
        "data": {"vocab_size": 999},
        "batch": {"global_batch": 33},
        "optimizer": {"beta2": 0.9},
        "schedule": {"steps": 301},
        "validation": {"max_samples": 65},
    }
    changed = parse_recipe(table(section, **changes[section]))
    assert changed.digest != parse_recipe(table()).digest


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (table(optimiser={}), "recipe: unknown key 'optimiser'.\nDid you mean 'optimizer'?"),
        (
            table("optimizer", learning_rte=1e-3),
            "recipe.optimizer: unknown key 'learning_rte'.\nDid you mean 'learning_rate'?",
        ),
        (table("model", layer=3), "recipe.model: unknown key 'layer'.\nDid you mean 'layers'?"),
        (
            table("schedule", decay="cosin"),
            "recipe.schedule.decay: 'cosin' is not one of 'cosine', 'linear', 'constant', 'wsd'.\n"
            "Did you mean 'cosine'?",
        ),
        ({}, "recipe: 'model' is missing.\nAdd [model] to recipe."),
        (
            {"model": {"layers": 2, "width": 32}},
            "recipe.model: 'heads' is missing.\nAdd heads = ... to recipe.model.",
        ),
    ],
)
def test_a_wrong_key_is_named_with_the_nearest(tables: dict[str, Any], message: str) -> None:
    assert refused(tables) == message


NUMBERS_ABOVE_ZERO = (
    "model.layers", "model.width", "model.heads", "model.context", "model.norm_epsilon",
    "data.vocab_size", "batch.sequence_length", "batch.global_batch", "optimizer.learning_rate",
    "optimizer.epsilon", "optimizer.gradient_clip", "schedule.steps", "validation.every_steps",
    "validation.max_samples", "checkpoint.every_steps", "checkpoint.keep",
)  # fmt: skip


@pytest.mark.parametrize("place", NUMBERS_ABOVE_ZERO)
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), 10**400])
def test_a_number_out_of_range_is_refused_by_its_name(place: str, value: float) -> None:
    section, name = place.split(".")
    assert refused(table(section, **{name: value})).startswith(f"recipe.{place}: ")


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("optimizer", "learning_rate", 1000.0),
        ("optimizer", "weight_decay", -0.1),
        ("optimizer", "beta1", 1.0),
        ("optimizer", "beta2", -0.1),
        ("schedule", "warmup_steps", -1),
        ("schedule", "final_share", 1.5),
        ("schedule", "final_share", -0.1),
        ("data", "held_out_share", 0.0),
        ("data", "held_out_share", 1.0),
        ("data", "vocab_size", 256),
        ("data", "corpus", []),
        ("data", "corpus", [""]),
        ("model", "heads", 5),
        ("model", "key_value_heads", 3),
        ("batch", "sequence_length", 65),
        ("model", "layers", 10**9),
        ("model", "width", 10**12),
        ("model", "context", 10**10),
        ("data", "vocab_size", 10**11),
        ("batch", "global_batch", 10**11),
        ("schedule", "steps", 10**14),
    ],
)
def test_an_absurd_value_is_refused_by_its_name(section: str, name: str, value: Any) -> None:
    assert refused(table(section, **{name: value})).startswith(f"recipe.{section}.{name}: ")


@pytest.mark.parametrize("name", ["", ".", "..", "/etc", "../x", "a/b", "a/", "a\n", "a\0b"])
def test_a_name_that_is_no_folders_name_is_refused(name: str) -> None:
    assert refused(table(name=name)).startswith("recipe.name: ")


def test_the_vocabulary_is_the_tokenizers_unless_the_model_fixes_it() -> None:
    assert parse_recipe(table()).with_vocabulary(500).model.vocab_size == 500
    fixed = parse_recipe(table("model", vocab_size=512))
    assert fixed.with_vocabulary(500).model.vocab_size == 512
    with pytest.raises(RecipeError, match=r"model\.vocab_size is 512, but the tokenizer has 513"):
        fixed.with_vocabulary(513)


def test_tokens_per_step() -> None:
    recipe = parse_recipe(table("batch", global_batch=3))
    assert recipe.tokens_per_step == 3 * 64


def test_paths_are_taken_from_the_files_folder(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "recipe.toml"
    path.parent.mkdir()
    path.write_text(
        "[model]\nlayers = 1\nwidth = 8\nheads = 1\n"
        '[data]\ncorpus = ["../text", "python-stdlib", "/abs"]\ntokenizer = "t.json"\n'
    )
    data = load_recipe(path).data
    assert data.corpus == (str(tmp_path / "text"), "python-stdlib", "/abs")
    assert data.tokenizer == str(tmp_path / "deep" / "t.json")


def test_a_models_name_in_place_of_a_recipe_is_told_apart_from_a_wrong_path() -> None:
    with pytest.raises(RecipeError, match=r"a model's name, not a .*\n.*preset = \"Llama-3-8B\""):
        load_recipe(Path("Llama-3-8B"))
    with pytest.raises(RecipeError, match="no such file"):
        load_recipe(Path("llama3-9b"))


def test_a_preset_is_the_model_and_other_keys_change_it() -> None:
    named = parse_recipe({"model": {"preset": "Llama-3.1-8B"}})
    assert named.model == PRESETS["llama3.1-8b"]
    changes = {"layers": 2, "context": 512, "rope_scaling": {"factor": 2}}
    changed = parse_recipe({"model": {"preset": "llama3.1-8b", **changes}}).model
    scaling = PRESETS["llama3.1-8b"].rope_scaling
    assert scaling is not None
    assert changed == dataclasses.replace(
        PRESETS["llama3.1-8b"],
        layers=2,
        context=512,
        rope_scaling=dataclasses.replace(scaling, factor=2.0),
    )


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_written_to_the_run_in_full(name: str) -> None:
    recipe = parse_recipe({"model": {"preset": name}, "batch": {"sequence_length": 64}})
    written = json.loads(json.dumps(recipe.to_dict()))
    assert "preset" not in written["model"]
    assert parse_recipe(written) == recipe


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"preset": "llama3-8bb"}, "Did you mean 'llama3-8b'?"),
        ({"preset": 3}, "recipe.model.preset: expected a model's name, found 3."),
        ({"preset": "gpt2", "widht": 3}, "recipe.model: unknown key 'widht'."),
        ({"preset": "gpt2", "width": "wide"}, "recipe.model.width: expected a whole number"),
        ({"preset": "mixtral-8x7b", "mixture": {"experts": 1}}, "2 of 1 experts"),
        ({"preset": "none/config.json"}, "no such file"),
    ],
)
def test_a_wrong_preset_is_refused(model: dict[str, Any], message: str) -> None:
    assert message in refused({"model": model})


def test_a_presets_path_starts_at_the_recipes_folder(tmp_path: Path) -> None:
    (tmp_path / "shape.json").write_text(
        '{"model_type": "gpt2", "n_layer": 3, "n_embd": 8, "n_head": 2, "n_positions": 256,'
        ' "vocab_size": 300}'
    )
    (tmp_path / "recipe.toml").write_text('[model]\npreset = "shape.json"\nlayers = 5\n')
    model = load_recipe(tmp_path / "recipe.toml").model
    assert (model.layers, model.width, model.vocab_size) == (5, 8, 300)


def test_a_path_that_is_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    file = tmp_path / "recipe.toml"
    file.write_text('[model]\nlayers = 1\nwidth = 8\nheads = 1\n[data]\ncorpus = ["loop"]\n')
    with pytest.raises(RecipeError, match="loop: this path leads nowhere"):
        load_recipe(file)


def test_a_recipe_cannot_be_changed() -> None:
    recipe = parse_recipe(table())
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda p: p.name)
def test_the_recipes_that_ship_are_whole(path: Path) -> None:
    recipe = load_recipe(path)
    assert parse_recipe(recipe.to_dict()) == recipe


def test_some_recipe_ships() -> None:
    assert (ROOT / "recipes" / "demo.toml").is_file()
