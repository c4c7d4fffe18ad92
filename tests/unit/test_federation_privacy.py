"""Privacy: the accountant against the exact curve of the Gaussian mechanism, clipping and noise
against their definition."""

from __future__ import annotations

import dataclasses
import math
from statistics import NormalDist

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from motley.federation.charter.terms import PrivacyConfig, Terms
from motley.federation.party.privacy import LARGE_EPSILON, budget, epsilon, privatize
from motley.recipe import ScheduleConfig
from test_federation_codec import SHAPES, draw


def exact_epsilon(shift: float, delta: float) -> float:
    """Of Gaussian noise of deviation 1 on values that differ by `shift` (Balle and Wang, arXiv
    1805.06530, Theorem 8), by bisection; rounds add up as shift = sqrt(rounds) x 2 / sigma."""
    normal = NormalDist()

    def delta_at(value: float) -> float:
        near, far = shift / 2 - value / shift, -shift / 2 - value / shift
        weight = math.exp(min(value, 700.0))
        return normal.cdf(near) - weight * normal.cdf(far)

    low, high = 0.0, 600.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_at(middle) > delta else (low, middle)
    return high


@settings(max_examples=60, deadline=None)
@given(sigma=st.floats(1.0, 100.0), rounds=st.integers(1, 300), delta=st.sampled_from([1e-5, 1e-7]))
def test_epsilon_is_above_the_exact_one_and_near_it(
    sigma: float, rounds: int, delta: float
) -> None:
    exact = exact_epsilon(2 * math.sqrt(rounds) / sigma, delta)
    spent = epsilon(PrivacyConfig(clip_norm=1.0, noise_multiplier=sigma, delta=delta), rounds)
    if exact < 400:
        assert exact * 0.999 <= spent <= 1.35 * exact + 0.05


def test_epsilon_grows_with_rounds_and_falls_with_noise() -> None:
    config = PrivacyConfig(clip_norm=1.0, noise_multiplier=30.0)
    louder = PrivacyConfig(clip_norm=1.0, noise_multiplier=60.0)
    spent = [epsilon(config, rounds) for rounds in (0, 1, 10, 100)]
    assert spent[0] == 0
    assert spent == sorted(spent)
    assert epsilon(louder, 100) < spent[-1]


@pytest.mark.parametrize(("noise", "spent"), [(1.0, "293"), (30.0, "2.99")])
def test_what_a_schedule_spends_is_said_and_warned_of_where_it_is_large(
    noise: float, spent: str
) -> None:
    privacy = PrivacyConfig(clip_norm=1.0, noise_multiplier=noise)
    terms = Terms(privacy=privacy)
    spends = budget(terms, ScheduleConfig(steps=100 * terms.round.local_steps))
    assert spends is not None
    assert f"epsilon {spent} at delta 1e-05" in str(spends)
    assert ("WARNING" in str(spends)) == (spends.epsilon > LARGE_EPSILON)
    enough = dataclasses.replace(privacy, noise_multiplier=spends.enough)
    assert epsilon(enough, 100) == pytest.approx(LARGE_EPSILON, rel=0.01)
    assert budget(Terms(), ScheduleConfig()) is None


@settings(max_examples=20, deadline=None)
@given(clip=st.floats(1e-3, 10.0), seed=st.integers(0, 99))
def test_clipping_is_by_the_norm_of_the_whole_update(clip: float, seed: int) -> None:
    """With next to no noise."""
    delta = draw(SHAPES, seed)
    norm = math.sqrt(sum(float(tensor.double().square().sum()) for tensor in delta.values()))
    clipped = privatize(delta, PrivacyConfig(clip_norm=clip, noise_multiplier=1e-9), seed=0)
    for name in SHAPES:
        expected = delta[name] * min(1.0, clip / norm)
        torch.testing.assert_close(clipped[name], expected, rtol=1e-5, atol=1e-7 * clip)


def test_noise_has_the_stated_deviation_and_is_new_each_time() -> None:
    zeros = {"w": torch.zeros(200, 500)}
    config = PrivacyConfig(clip_norm=0.5, noise_multiplier=3.0)
    first, second = (privatize(zeros, config)["w"] for _ in range(2))
    for noise in (first, second):
        assert float(noise.std()) == pytest.approx(1.5, rel=0.02)
        assert abs(float(noise.mean())) < 0.03
    assert not torch.equal(first, second)
    assert abs(float((first * second).mean())) < 0.05
