"""A schedule longer than the data is said, with how many epochs it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley.model.config import ModelConfig
from motley.recipe import BatchConfig, Recipe, ScheduleConfig
from motley.train.epochs import epochs_message, epochs_of


def recipe(steps: int = 100, **schedule: float) -> Recipe:
    return Recipe(
        model=ModelConfig(layers=1, width=8, heads=1),
        batch=BatchConfig(sequence_length=10, global_batch=4),
        schedule=ScheduleConfig(steps=steps, **schedule),  # type: ignore[arg-type]
    )


@given(st.integers(1, 10**6), st.integers(1, 10**4))
def test_it_speaks_only_where_text_is_repeated(num_tokens: int, steps: int) -> None:
    job = recipe(steps)
    epochs = steps * 40 / num_tokens
    assert epochs_of(job, num_tokens) == pytest.approx(epochs)
    said = epochs_message(job, num_tokens)
    assert bool(said) == (epochs > 1)
    assert ("schedule.steps" in said) == (epochs > 4)


def test_what_it_says() -> None:
    assert epochs_message(recipe(), 1600) == (
        "The schedule is longer than the data: 4 k tokens in 100 steps are 2.5 epochs of 1.6 k "
        "tokens."
    )
    assert epochs_message(recipe(), 400).endswith("add text, or set schedule.steps to 40.")


def test_growing_batches_pass_less() -> None:
    growing = recipe(batch_warmup=0.5, batch_warmup_steps=100)
    assert epochs_of(growing, 1000) == pytest.approx(0.75 * epochs_of(recipe(), 1000))
