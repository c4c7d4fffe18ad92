"""What each parameter is to the optimizer, by its global name."""

from __future__ import annotations

from collections.abc import Sequence

from motley.recipe.optimizer import Role

ROUTER = "router.weight"
"""A router's few rows choose experts, each for itself; there is nothing to orthogonalise."""


def role_of(name: str, shape: Sequence[int]) -> Role:
    """The role of the parameter with that global name, such as "blocks.0.mlp.up.weight"."""
    if len(shape) < 2:
        return "vector"
    if name.startswith("embedding."):
        return "embedding"
    return "head" if name.startswith("head.") else "matrix"


def is_orthogonalised(name: str, shape: Sequence[int]) -> bool:
    """Whether Muon updates the parameter: a matrix of a block, or a stack of them [e, out, in]."""
    return role_of(name, shape) == "matrix" and not name.endswith(ROUTER)
