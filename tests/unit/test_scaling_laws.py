"""The laws behind the advice: the papers' own numbers, and what must hold for any compute."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley.plan.advice.laws import (
    HOFFMANN,
    REPEATS_WORTH,
    best_batch_tokens,
    critical_batch_tokens,
    effective_tokens,
    limited_loss,
    loss,
    optimum,
)

COMPUTE = st.floats(1e12, 1e26)
CHINCHILLA_FLOPS = 5.76e23
"""Gopher's compute (arXiv 2203.15556, section 4)."""


def test_the_corrected_fit_trains_chinchilla() -> None:
    """70B parameters on 1.4T tokens were chosen for this compute."""
    size, tokens = optimum(CHINCHILLA_FLOPS)
    assert size == pytest.approx(70e9, rel=0.1)
    assert tokens == pytest.approx(1.4e12, rel=0.1)
    assert 17 < tokens / size < 22


def test_the_first_fit_disagreed_with_its_paper() -> None:
    """arXiv 2404.10102: taken as printed, the first fit wants about 70 tokens or more for each
    parameter, where the paper's other estimates and the corrected fit say about 20."""
    size, tokens = optimum(CHINCHILLA_FLOPS, fit=HOFFMANN)
    assert tokens / size > 60


def test_the_exponent_of_the_size() -> None:
    """0.513 in arXiv 2404.10102, table 1's fit."""
    (small, _), (large, _) = optimum(1e18), optimum(1e20)
    assert math.log(large / small) / math.log(100) == pytest.approx(0.5126, abs=1e-3)


@given(flops=COMPUTE, off=st.floats(1.01, 3))
def test_no_other_split_of_the_compute_is_better(flops: float, off: float) -> None:
    size, tokens = optimum(flops)
    assert 6 * size * tokens == pytest.approx(flops, rel=1e-9)
    best = loss(size, tokens)
    assert loss(size * off, tokens / off) >= best
    assert loss(size / off, tokens * off) >= best


@given(flops=COMPUTE, more=st.floats(1.1, 100))
def test_more_compute_wants_more_of_both(flops: float, more: float) -> None:
    (size, tokens), (larger, longer) = optimum(flops), optimum(flops * more)
    assert larger > size
    assert longer > tokens
    assert loss(larger, longer) < loss(size, tokens)


@given(unique=st.floats(1e3, 1e13), epochs=st.floats(0.01, 1000), more=st.floats(1, 10))
def test_repeats_wear_out(unique: float, epochs: float, more: float) -> None:
    worth = effective_tokens(epochs * unique, unique)
    assert worth <= epochs * unique * (1 + 1e-9)
    assert worth <= unique * (1 + REPEATS_WORTH)
    assert effective_tokens(more * epochs * unique, unique) >= worth * (1 - 1e-9)
    if epochs <= 1:
        assert worth == epochs * unique


def test_four_epochs_are_nearly_new_and_forty_are_not() -> None:
    """arXiv 2305.16264: up to 4 epochs as good as new, worthless from about 40 on."""
    assert effective_tokens(4.0, 1.0) / 4 > 0.9
    assert effective_tokens(40.0, 1.0) / 40 < 0.4
    after = effective_tokens(41.0, 1.0) - effective_tokens(40.0, 1.0)
    assert after < 0.1


@given(size=st.floats(1e5, 1e11), tokens=st.floats(1e6, 1e13), unique=st.floats(1e5, 1e13))
def test_a_smaller_text_is_never_better(size: float, tokens: float, unique: float) -> None:
    assert limited_loss(size, tokens, unique) >= limited_loss(size, tokens, None) * (1 - 1e-12)


@given(tokens=st.floats(1e9, 1e13))
def test_the_critical_batch_is_above_the_best(tokens: float) -> None:
    critical = critical_batch_tokens(tokens)
    assert critical is not None
    assert critical > best_batch_tokens(tokens)
    assert best_batch_tokens(2 * tokens) > best_batch_tokens(tokens)


def test_batches_as_published() -> None:
    """Figure 1 of arXiv 2505.13738 at 100 billion tokens, and the Step Law's own power."""
    assert critical_batch_tokens(1e11) == pytest.approx(0.0471 * 1e11**0.462 * 2048)
    assert best_batch_tokens(1e11) == pytest.approx(1.1e6, rel=0.05)
    assert critical_batch_tokens(1e8) is None
