"""The advice spends the budget, is the best of its family, and says where its rules come from."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley.model.config import LatentAttention, ModelConfig
from motley.model.counts import model_counts
from motley.model.ladder import WIDTH_PER_LAYER, at_depth, reshaped
from motley.plan.advice.advice import Budget, advise, budget_of
from motley.plan.advice.laws import MOST_EPOCHS, limited_loss
from motley.plan.search.search import search
from motley.recipe import BatchConfig, Recipe
from plan_cases import make_cluster, make_recipe

RECIPE = Recipe(
    model=ModelConfig(
        layers=6,
        width=384,
        heads=6,
        key_value_heads=2,
        mlp_width=1024,
        activation="swiglu",
        vocab_size=4096,
    ),
    batch=BatchConfig(sequence_length=256, global_batch=32),
)
FLOPS = st.floats(1e14, 1e19)


@given(flops=FLOPS)
@settings(max_examples=25)
def test_the_budget_is_spent_to_half_a_step(flops: float) -> None:
    best = advise(RECIPE, Budget(flops=flops, origin="")).best
    half_step = best.flops / best.steps / 2
    assert abs(best.flops - flops) <= half_step * (1 + 1e-9)
    per_token = model_counts(best.model, 256).flops_per_token
    assert best.tokens * per_token == pytest.approx(best.flops)
    assert best.tokens == best.steps * best.global_batch * 256


@given(flops=FLOPS, more=st.floats(1.5, 50), corpus=st.none() | st.integers(10**6, 10**11))
@settings(max_examples=25)
def test_more_compute_never_wants_a_smaller_model(
    flops: float, more: float, corpus: int | None
) -> None:
    best = advise(RECIPE, Budget(flops=flops, origin=""), corpus).best
    larger = advise(RECIPE, Budget(flops=flops * more, origin=""), corpus).best
    assert larger.parameters >= best.parameters
    assert larger.tokens > best.tokens or larger.parameters > best.parameters or corpus
    assert larger.loss <= best.loss * (1 + 1e-9)


@given(flops=FLOPS, corpus=st.none() | st.integers(10**6, 10**11))
@settings(max_examples=10)
def test_no_depth_of_the_ladder_is_better(flops: float, corpus: int | None) -> None:
    advice = advise(RECIPE, Budget(flops=flops, origin=""), corpus)
    useful = advice.best.flops
    for layers in range(1, 30):
        counts = model_counts(at_depth(RECIPE.model, layers), 256)
        tokens = useful / counts.flops_per_token
        other = limited_loss(counts.active_parameters, tokens, corpus)
        assert advice.best.loss <= other * (1 + 1e-3)


@given(flops=FLOPS, corpus=st.integers(10**5, 10**11))
@settings(max_examples=25)
def test_no_text_is_repeated_beyond_use(flops: float, corpus: int) -> None:
    advice = advise(RECIPE, Budget(flops=flops, origin=""), corpus)
    assert advice.epochs is not None
    assert advice.epochs <= MOST_EPOCHS
    if advice.best.flops < flops / 1.05:
        assert "The text can use" in " ".join(advice.sentences)


def test_a_model_of_the_best_size_has_the_lowest_loss_and_others_are_told() -> None:
    advice = advise(RECIPE, Budget(flops=1e19, origin="said so"), 10**10)
    assert advice.own.loss > advice.best.loss
    text = " ".join(advice.sentences)
    for said in ("1e+19 FLOPs of the model, said so", "2404.10102", "2503.04715", "2505.13738",
                 "epochs"):  # fmt: skip
        assert said in text
    assert "by the fit its loss is" in text
    assert "extrapolated" not in text
    own = dataclasses.replace(RECIPE, model=advice.best.model)
    again = advise(own, advice.budget, 10**10)
    assert again.best.model == advice.best.model
    assert "has this size" in " ".join(again.sentences)


def test_what_is_unknown_is_said() -> None:
    text = " ".join(advise(RECIPE, Budget(flops=1e15, origin="")).sentences)
    assert "unknown" in text
    assert "extrapolated" in text
    assert "nats" not in text


def test_hours_of_a_plan_and_the_steps_of_a_recipe_are_budgets() -> None:
    recipe = make_recipe()
    plan = search(recipe, make_cluster([1e12, 2e12]))
    per_token = model_counts(recipe.model, 64).flops_per_token
    hours = budget_of(recipe, plan, 2.0)
    assert hours.flops == pytest.approx(plan.tokens_per_s * per_token * 7200)
    assert "predicted" in hours.origin
    own = budget_of(recipe)
    assert own.flops == recipe.schedule.steps * recipe.tokens_per_step * per_token


@given(layers=st.integers(1, 60))
def test_the_ladder_keeps_the_family(layers: int) -> None:
    model = at_depth(RECIPE.model, layers)
    assert (model.layers, model.width) == (layers, WIDTH_PER_LAYER * layers)
    assert model.head_size == RECIPE.model.head_size
    assert model.heads % model.num_key_value_heads == 0
    assert model.mlp_size / model.width == pytest.approx(1024 / 384, rel=0.07)
    assert at_depth(RECIPE.model, 6) == RECIPE.model


def test_families_without_other_sizes_say_so() -> None:
    latent = LatentAttention(key_value_rank=8, plain_width=8, rotary_width=8, value_width=8)
    model = ModelConfig(layers=2, width=64, heads=4, vocab_size=500, latent=latent)
    with pytest.raises(ValueError, match="do not follow"):
        at_depth(model, 4)
    with pytest.raises(ValueError, match="no multiple of a head's size"):
        reshaped(RECIPE.model, 4, 100)
