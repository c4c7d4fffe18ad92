"""A training that is lost stops with its step and likely cause; one that goes well never does."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley.errors import DivergedError
from motley.model.config import ModelConfig
from motley.recipe import BatchConfig, OptimizerConfig, Recipe
from motley.train.health import RISE_NATS, SUSPECT_STEPS, WINDOW_STEPS, LossWatch

GUESSING = math.log(1000)


def watch(lookahead: float | None = None, **optimizer: object) -> LossWatch:
    model = ModelConfig(layers=1, width=8, heads=1, vocab_size=1000, lookahead_weight=lookahead)
    config = OptimizerConfig(**optimizer)  # type: ignore[arg-type]
    return LossWatch(Recipe(model=model, batch=BatchConfig(), optimizer=config))


def lost(seen: LossWatch, step: int, loss: float, norm: float = 1.0, share: float = 1.0) -> str:
    with pytest.raises(DivergedError) as raised:
        seen.look(step, loss, norm, share, skips=False)
    return raised.value.message


def test_a_loss_that_is_no_number_names_step_and_boldest_rate() -> None:
    said = lost(watch(kind="muon", matrix_learning_rate=1.0), 99, math.nan, share=0.5)
    assert said.startswith("step 100: the loss is nan, the gradient norm 1.0.")
    assert "optimizer.matrix_learning_rate = 1 (0.5 at this step), 20 times" in said
    assert "optimizer.learning_rate = 5 " in lost(watch(learning_rate=5.0), 99, math.inf)
    said = lost(watch(embedding_learning_rate=0.5), 99, 2.0, norm=math.inf)
    assert "optimizer.embedding_learning_rate = 0.5" in said


def test_usual_rates_are_not_blamed_before_the_rest() -> None:
    assert "schedule.warmup_steps = 20" in lost(watch(), 5, math.nan)
    rising = watch()
    for step in range(40):
        rising.look(step, 3.0, 1.1**step, 1.0, skips=False)
    assert "the gradient norm grew to 15.9 times" in lost(rising, 40, math.nan)


def test_a_skipped_overflow_is_no_loss() -> None:
    watch().look(0, 6.0, math.inf, 1.0, skips=True)


def test_a_loss_that_stays_high_is_suspect_and_then_lost() -> None:
    seen = watch()
    for step in range(2 * WINDOW_STEPS):
        seen.look(step, 3.0, 1.0, 1.0, skips=False)
    high = 3.0 + RISE_NATS + 0.1
    for step in range(WINDOW_STEPS - 1):
        assert seen.is_suspect == (step >= SUSPECT_STEPS)
        seen.look(step, high, 1.0, 1.0, skips=False)
    assert "above 4.50 for 30 steps" in lost(seen, WINDOW_STEPS, high)


@given(st.lists(st.floats(min_value=0, max_value=math.log(1000) + RISE_NATS), max_size=60))
def test_what_is_no_worse_than_guessing_never_stops_a_beginning(losses: list[float]) -> None:
    seen = watch()
    for step, loss in enumerate(losses[: WINDOW_STEPS - 1]):
        seen.look(step, loss, 1.0, 1.0, skips=False)
        assert not seen.is_suspect


def descend(seen: LossWatch, until: float = GUESSING + 1.0) -> int:
    """A healthy training that begins far above guessing; the number of steps it takes."""
    step, loss = 0, GUESSING + 3.8
    while loss > until:
        seen.look(step, loss, 1.0, 1.0, skips=False)
        assert not seen.is_suspect
        step, loss = step + 1, loss - 0.03
    return step


def test_a_high_start_that_comes_down_is_healthy() -> None:
    assert descend(watch()) > 2 * WINDOW_STEPS


def test_a_high_start_that_rises_is_lost() -> None:
    seen = watch()
    high = GUESSING + 3.8 + RISE_NATS + 0.1
    seen.look(0, GUESSING + 3.8, 1.0, 1.0, skips=False)
    for step in range(1, WINDOW_STEPS):
        seen.look(step, high, 1.0, 1.0, skips=False)
    assert seen.is_suspect
    assert "for 30 steps" in lost(seen, WINDOW_STEPS, high)


def test_after_a_high_start_guessing_counts_again() -> None:
    seen = watch()
    done = descend(seen)
    assert seen.first_loss is None
    for step in range(WINDOW_STEPS - 1):
        seen.look(done + step, GUESSING + 2.0, 1.0, 1.0, skips=False)
    assert "for 30 steps" in lost(seen, done + WINDOW_STEPS, GUESSING + 2.0)


def test_a_resume_on_the_way_down_goes_on_from_the_first_loss() -> None:
    before, high = watch(), GUESSING + 3.0
    done = descend(before, until=high)
    resumed, forgetful = watch(), watch()
    resumed.first_loss = before.first_loss
    for step in range(done, done + WINDOW_STEPS - 1):
        for seen in (resumed, forgetful):
            seen.look(step, high, 1.0, 1.0, skips=False)
    assert not resumed.is_suspect
    assert "for 30 steps" in lost(forgetful, done + WINDOW_STEPS, high)


def test_the_rate_of_the_lookahead_is_blamed_under_a_tied_head() -> None:
    said = lost(watch(lookahead=0.3, head_learning_rate=0.5), 99, math.nan)
    assert "optimizer.head_learning_rate = 0.5" in said


def test_spikes_are_forgiven() -> None:
    seen = watch()
    for step in range(200):
        seen.look(step, 9.0 if step % 10 == 9 else 2.0, 1.0, 1.0, skips=False)
    assert not seen.is_suspect


def test_where_others_change_the_weights_a_loss_may_rise_but_not_be_lost() -> None:
    seen = watch()
    seen.bears_rises = True
    for step in range(4 * WINDOW_STEPS):
        seen.look(step, 1.0 if step < WINDOW_STEPS else 9.0, 1.0, 1.0, skips=False)
    assert not seen.is_suspect
    assert "the loss is nan" in lost(seen, 99, math.nan)
