"""Differential privacy at the party: what others learn of its text from its updates is bounded.

Before an update is encoded it is shortened to a norm of at most C, and Gaussian noise of standard
deviation sigma x C is added to each value. Whatever happens afterwards (residual, codec, training
on) is post-processing. Two runs of a party with *any* two texts differ by at most 2C in an update,
which so is a Gaussian mechanism of sensitivity 2C: Renyi divergence 2 alpha / sigma^2 (Mironov,
arXiv 1702.07476, Proposition 7). Divergences add up over the rounds.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from motley.federation.codec.arithmetic import fixed_order_sum, sum_of_products
from motley.federation.codec.codec import flat_arrays
from motley.federation.terms import PrivacyConfig

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


def _epsilon_at(order: float, slope: float, delta: float) -> float:
    """(order, slope x order) Renyi DP as (epsilon, delta)."""
    tail = math.log(1 / delta) + (order - 1) * math.log1p(-1 / order) - math.log(order)
    return slope * order + tail / (order - 1)
