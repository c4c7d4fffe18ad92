"""Differential privacy at the party: what others learn of its text from its updates is bounded.

Before an update is encoded it is shortened to a norm of at most C, and Gaussian noise of standard
deviation sigma x C is added to each value. Whatever happens afterwards (residual, codec, training
on) is post-processing. Two runs of a party with *any* two texts differ by at most 2C in an update,
which so is a Gaussian mechanism of sensitivity 2C: Renyi divergence 2 alpha / sigma^2 (Mironov,
arXiv 1702.07476, Proposition 7). Divergences add up over the rounds.

It covers updates and what follows from them. What else leaves is in `docs/assumptions.md`.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from motley.federation.charter.terms import PrivacyConfig, Terms
from motley.federation.codec.arithmetic import fixed_order_sum, sum_of_products
from motley.federation.codec.codec import flat_arrays
from motley.federation.party.pace import num_rounds
from motley.recipe import ScheduleConfig

LARGE_EPSILON = 10.0
"""Above it the bound says little: what was seen may be e^10 times as likely with one text as with
another."""

ORDERS = tuple(1 + 2.0 ** (power / 8) for power in range(-64, 97))
"""Renyi orders that are tried: 1.004 to 4097."""


def privatize(
    delta: Mapping[str, Tensor], config: PrivacyConfig, *, seed: int | None = None
) -> dict[str, Tensor]:
    """The update that may leave the party: clipped and noisy.

    The noise comes from a 256-bit seed of the operating system; `seed` replaces it in tests.
    """
    flat = flat_arrays({name: delta[name] for name in sorted(delta)})
    squares = np.array([sum_of_products(values, values) for values in flat.values()])
    norm = math.sqrt(fixed_order_sum(squares))
    factor = np.float32(config.clip_norm / norm) if norm > config.clip_norm else np.float32(1)
    deviation = np.float32(config.noise_multiplier * config.clip_norm)
    generator = np.random.default_rng(secrets.randbits(256) if seed is None else seed)
    return {
        name: torch.from_numpy(
            values * factor + generator.standard_normal(values.shape, np.float32) * deviation
        ).view(delta[name].shape)
        for name, values in flat.items()
    }


def epsilon(config: PrivacyConfig, num_rounds: int) -> float:
    """The epsilon, at `config.delta`, that a party has spent after that many of its updates.

    From Renyi divergence as in Canonne, Kamath and Steinke (arXiv 2004.00010, Proposition 12).
    """
    if num_rounds == 0:
        return 0.0
    slope = 2 * num_rounds / config.noise_multiplier**2
    return max(0.0, min(_epsilon_at(order, slope, config.delta) for order in ORDERS))


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a whole schedule spends of a party's privacy."""

    rounds: int
    epsilon: float
    delta: float
    enough: float
    """The noise multiplier with which it would be `LARGE_EPSILON`."""

    def __str__(self) -> str:
        text = (
            f"Privacy: epsilon {self.epsilon:.3g} at delta {self.delta:g} for each party after all "
            f"{self.rounds} rounds."
        )
        if self.epsilon <= LARGE_EPSILON:
            return text
        return (
            f"{text} WARNING: above {LARGE_EPSILON:g} that promises little: noise_multiplier = "
            f"{self.enough:.3g} or fewer rounds would give {LARGE_EPSILON:g}."
        )


def budget(terms: Terms, schedule: ScheduleConfig) -> Budget | None:
    """For an update in each round; None where the terms ask for no privacy."""
    if terms.privacy is None:
        return None
    rounds = num_rounds(terms.round, schedule)
    low, high = 1e-3, 1e9
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        louder = replace(terms.privacy, noise_multiplier=middle)
        is_enough = epsilon(louder, rounds) <= LARGE_EPSILON
        low, high = (low, middle) if is_enough else (middle, high)
    return Budget(
        rounds=rounds,
        epsilon=epsilon(terms.privacy, rounds),
        delta=terms.privacy.delta,
        enough=high,
    )


def _epsilon_at(order: float, slope: float, delta: float) -> float:
    """(order, slope x order) Renyi DP as (epsilon, delta)."""
    tail = math.log(1 / delta) + (order - 1) * math.log1p(-1 / order) - math.log(order)
    return slope * order + tail / (order - 1)
