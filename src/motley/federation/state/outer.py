"""The outer optimizers: what the average of the parties' updates does to the shared parameters.

`nesterov` is DiLoCo's (Douillard et al., arXiv 2311.08105), for dense codecs. `average` has no
momentum: under a sparse codec the fed-back error takes its place (SparseLoCo, arXiv 2508.15706).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from motley.federation.charter.terms import OuterConfig


def has_momentum(config: OuterConfig) -> bool:
    """Whether the state keeps a momentum beside each parameter."""
    return config.kind == "nesterov"


def move(
    values: NDArray[np.float32],
    momentum: NDArray[np.float32] | None,
    average: NDArray[np.float32],
    config: OuterConfig,
) -> None:
    """One outer step, elementwise and in place; `average` is used up.

    Nesterov as in PyTorch's SGD: m <- mu m + u; values <- values + rate (u + mu m).
    """
    if momentum is not None:
        momentum *= np.float32(config.momentum)
        momentum += average
        average += momentum * np.float32(config.momentum)
    average *= np.float32(config.learning_rate)
    values += average
