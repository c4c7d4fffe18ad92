"""Transfer of a recipe over width, depth, batch and steps: activations move alike at every width,
there and back is the same, and the written file says what changed and nothing else."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from motley.model.config import MixtureOfExperts, ModelConfig
from motley.model.init import initial_value
from motley.model.table_config import MemoryTables
from motley.model.transformer import build_transformer
from motley.optim.optimizer import build_optimizer
from motley.optim.roles import role_of
from motley.recipe import (
    BatchConfig,
    CheckpointConfig,
    OptimizerConfig,
    Recipe,
    ScheduleConfig,
    ValidationConfig,
    load_recipe,
    parse_recipe,
)
from motley.recipe.rewrite import rewritten
from motley.recipe.transfer import Change, Target, transferred

ROOT = Path(__file__).parents[2]
VOCABULARY = 97


def narrow(kind: str = "adamw", **model: object) -> Recipe:
    shape = {
        "layers": 2, "width": 64, "heads": 4, "head_width": 16, "vocab_size": VOCABULARY,
        "context": 32, "positions": "rotary", "norm": "rmsnorm", "activation": "relu2",
        "bias": False, "qk_norm": True, "tied_head": False,
    }  # fmt: skip
    rates = OptimizerConfig(
        kind=kind,  # type: ignore[arg-type]
        learning_rate=5e-3,
        matrix_learning_rate=None if kind == "adamw" else 0.02,
    )
    return Recipe(
        model=ModelConfig(**{**shape, **model}),  # type: ignore[arg-type]
        batch=BatchConfig(sequence_length=32, global_batch=8),
        optimizer=rates,
        schedule=ScheduleConfig(steps=100, warmup_steps=10),
        validation=ValidationConfig(every_steps=20),
        checkpoint=CheckpointConfig(every_steps=50),
    )


def moved(recipe: Recipe, steps: int = 3) -> tuple[float, float]:
    """How far some updates move the residual stream and the logits: root mean squares."""
    data = torch.randint(0, VOCABULARY, (8, 33), generator=torch.Generator().manual_seed(1))
    tokens, targets = data[:, :-1], data[:, 1:]
    model = build_transformer(recipe.model, seed=0)
    optimizer = build_optimizer(model.named(), recipe.optimizer)

    @torch.no_grad()
    def outputs() -> tuple[torch.Tensor, torch.Tensor]:
        return model.hidden(tokens), model.logits(tokens)

    before = outputs()
    for step in range(steps):
        model.zero_grad()
        (model.loss(tokens, targets) / targets.numel()).backward()
        optimizer.step(1.0, step)
    hidden, logits = (
        float((new - old).pow(2).mean().sqrt()) for new, old in zip(outputs(), before, strict=True)
    )
    return hidden, logits


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_activations_move_alike_at_every_width(kind: str) -> None:
    """The coordinate check of muP (arXiv 2203.03466, section D.1), four times as wide."""
    recipe = narrow(kind, zero_init=True)
    wide = transferred(recipe, Target(width=256)).recipe
    (hidden, logits), (wide_hidden, wide_logits) = moved(recipe), moved(wide)
    assert 0.6 < wide_hidden / hidden < 1.6
    assert 0.6 < wide_logits / logits < 1.6


def test_without_the_rules_they_do_not() -> None:
    recipe = narrow()
    table = recipe.to_dict()
    table["model"] |= {"width": 256, "heads": 16}
    (hidden, logits), (wide_hidden, wide_logits) = moved(recipe), moved(parse_recipe(table))
    assert wide_hidden / hidden > 3
    assert wide_logits / logits > 2


WIDTHS = st.sampled_from([64, 128, 320, 1024])


@given(
    layers=st.integers(1, 40),
    width=WIDTHS,
    batch=st.sampled_from([2, 8, 32, 512]),
    steps=st.integers(10, 5000),
    kind=st.sampled_from(["adamw", "muon"]),
)
@settings(max_examples=20)
def test_there_and_back_is_the_same(
    layers: int, width: int, batch: int, steps: int, kind: str
) -> None:
    recipe = narrow(kind)
    there = transferred(recipe, Target(layers=layers, width=width, global_batch=batch, steps=steps))
    back = transferred(there.recipe, Target(layers=2, width=64, global_batch=8, steps=100)).recipe
    old, new = recipe.optimizer, back.optimizer
    for role in ("matrix", "embedding", "head", "vector"):
        assert new.peak_rate(role) == pytest.approx(old.peak_rate(role), rel=0.02)
        assert new.decay(role) == pytest.approx(old.decay(role), rel=0.02)
    assert (back.model.layers, back.model.width, back.model.heads) == (2, 64, 4)
    if width != 64:
        assert back.model.matrix_deviation == pytest.approx(0.02, rel=0.02)


def test_the_rules_by_their_exponents() -> None:
    recipe = narrow()
    wide = transferred(recipe, Target(width=256)).recipe
    assert wide.optimizer.peak_rate("matrix") == pytest.approx(5e-3 / 4)
    assert wide.optimizer.peak_rate("head") == pytest.approx(5e-3 / 4)
    assert wide.optimizer.peak_rate("embedding") == wide.optimizer.peak_rate("vector") == 5e-3
    assert wide.model.matrix_deviation == pytest.approx(0.02 / 2)
    assert wide.model.head_deviation == pytest.approx(0.02 / 4)
    muon = transferred(narrow("muon"), Target(width=256, layers=8)).recipe
    assert muon.optimizer.peak_rate("matrix") == pytest.approx(0.02 / 2)
    larger_batch = transferred(recipe, Target(global_batch=32)).recipe
    for role in ("matrix", "embedding", "head", "vector"):
        assert larger_batch.optimizer.peak_rate(role) == pytest.approx(1e-2)
    longer = transferred(recipe, Target(steps=1000)).recipe
    assert longer.optimizer.peak_rate("matrix") == 5e-3
    assert longer.optimizer.weight_decay == pytest.approx(0.1 / 10 * 10**0.527, rel=0.01)
    assert (longer.schedule.warmup_steps, longer.checkpoint.every_steps) == (100, 500)


def test_a_tied_head_takes_the_slower_rate() -> None:
    wide = transferred(narrow(tied_head=True), Target(width=256)).recipe
    assert wide.optimizer.peak_rate("embedding") == pytest.approx(5e-3 / 4)
    assert wide.model.head_deviation is None


def test_what_looks_ahead_goes_with_the_width_under_a_tied_head() -> None:
    recipe = narrow(tied_head=True, lookahead_weight=0.3)
    wide = transferred(recipe, Target(width=256)).recipe
    assert wide.optimizer.peak_rate("head") == pytest.approx(5e-3 / 4)
    (before, moves), (wide_before, wide_moves) = ahead(recipe), ahead(wide)
    assert 0.6 < wide_before / before < 1.6
    assert 0.6 < wide_moves / moves < 1.6


def ahead(recipe: Recipe, steps: int = 3) -> tuple[float, float]:
    """What the lookahead's matrix makes of a unit stream, at the start and moved by some updates:
    root mean squares."""
    data = torch.randint(0, VOCABULARY, (8, 33), generator=torch.Generator().manual_seed(1))
    tokens, targets = data[:, :-1], data[:, 1:]
    model = build_transformer(recipe.model, seed=0)
    named = model.named()
    optimizer = build_optimizer(named, recipe.optimizer)
    matrix = named["head.ahead.weight"]
    start = matrix.detach().clone()
    for step in range(steps):
        model.zero_grad()
        (model.loss(tokens, targets) / targets.numel()).backward()
        optimizer.step(1.0, step)
    with torch.no_grad():
        states = model.hidden(tokens)
        states = states / states.pow(2).mean(dim=-1, keepdim=True).sqrt()
        before, moves = states @ start.T, states @ (matrix - start).T
    return float(before.pow(2).mean().sqrt()), float(moves.pow(2).mean().sqrt())


def test_projected_rows_go_with_the_width_and_embeddings_do_not() -> None:
    recipe = narrow(tied_head=False, tables=MemoryTables(ngrams=(2,), width=16))
    wide = transferred(recipe, Target(width=256)).recipe
    name = "embedding.ngram_projection.weight"
    shape = build_transformer(wide.model, seed=0).named()[name].shape
    assert shape == (256, 64)
    assert wide.optimizer.peak_rate(role_of(name, shape)) == pytest.approx(5e-3 / 4)
    assert wide.optimizer.peak_rate(role_of("embedding.token", shape)) == 5e-3
    tied = transferred(narrow(tied_head=True, tables=recipe.model.tables), Target(width=256)).recipe
    assert tied.optimizer.peak_rate(role_of(name, shape)) == pytest.approx(5e-3 / 4)


def test_deviations_are_those_of_what_a_matrix_does() -> None:
    model = narrow(lookahead_weight=0.3, head_deviation=0.0, matrix_deviation=0.5).model
    size = torch.Size((200, 200))

    def deviation(name: str) -> float:
        return float(initial_value(model, name, size, 0).std())

    assert deviation("head.output") == 0.0
    for name in ("head.ahead.weight", "embedding.ngram_projection.weight"):
        assert deviation(name) == pytest.approx(0.5, rel=0.02)
    assert deviation("embedding.token") == pytest.approx(0.02, rel=0.02)


def test_nothing_to_change_changes_nothing() -> None:
    recipe = narrow()
    same = transferred(recipe, Target(layers=2, width=64))
    assert same.recipe == recipe
    assert same.changes == ()


def test_experts_and_narrow_keys_follow_the_width() -> None:
    mixture = MixtureOfExperts(experts=4, experts_per_token=2, expert_width=32)
    recipe = narrow(mixture=mixture, key_value_heads=2, mlp_width=128)
    wide = transferred(recipe, Target(width=128))
    assert wide.recipe.model.mixture is not None
    assert wide.recipe.model.mixture.expert_width == 64
    assert wide.recipe.model.num_key_value_heads == 4
    assert ("model.mixture", "expert_width") in {(each.table, each.key) for each in wide.changes}


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda p: p.name)
def test_the_written_file_means_the_scaled_recipe(path: Path) -> None:
    recipe = load_recipe(path)
    vocabulary = recipe.model.vocab_size or recipe.data.vocab_size
    recipe = recipe.with_vocabulary(vocabulary)
    scaled = transferred(recipe, Target(layers=3, width=256, global_batch=16, steps=777))
    text = path.read_text()
    changed = rewritten(text, scaled.changes)
    back = parse_recipe(tomllib.loads(changed), path.name, path.parent)
    assert back.with_vocabulary(vocabulary) == scaled.recipe
    lines = difflib.unified_diff(text.splitlines(), changed.splitlines(), n=0, lineterm="")
    added = [line for line in lines if line.startswith("+") and not line.startswith("+++")]
    headers = [line for line in added if line.startswith("+[") or line == "+"]
    assert len(added) - len(headers) == len(scaled.changes)


def test_comments_of_what_was_asked_for_stay_and_others_say_why() -> None:
    text = "[model]\nlayers = 2   # few\nwidth = 64\n\n[batch]\nglobal_batch = 8\n"
    changes = [
        Change("model", "layers", 4, ""),
        Change("model", "matrix_deviation", 0.01, "wider"),
        Change("optimizer", "learning_rate", 1e-3, "wider"),
        Change("batch", "global_batch", None, ""),
        Change("", "seed", 3, "another"),
    ]
    assert rewritten(text, changes) == (
        "seed = 3  # another\n[model]\nlayers = 4  # few\nwidth = 64\n"
        "matrix_deviation = 0.01  # wider\n\n[batch]\n\n[optimizer]\n"
        "learning_rate = 0.001  # wider\n"
    )
