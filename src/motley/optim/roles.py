"""What each parameter is to the optimizer, by its global name."""

from __future__ import annotations

from collections.abc import Sequence

from motley.model.config import BLOCKS
from motley.recipe.optimizer import Role

ROUTER = "router.weight"
"""A router's few rows choose experts, each for itself, as the head's choose tokens: there is
nothing to orthogonalise."""
NGRAM_PROJECTION = "embedding.ngram_projection."
"""A product like the head's, not rows that are looked up."""


def role_of(name: str, shape: Sequence[int]) -> Role:
    """The role of the parameter with that global name, such as "blocks.0.mlp.up.weight"; memory
    tables have none."""
    if len(shape) < 2:
        return "vector"
    if name.startswith(("head.", NGRAM_PROJECTION)) or name.endswith(ROUTER):
        return "head"
    return "embedding" if name.startswith("embedding.") else "matrix"


def is_orthogonalised(name: str, shape: Sequence[int]) -> bool:
    """Whether Muon updates the parameter: a matrix of a block, or a stack of them [e, out, in]."""
    return name.startswith(BLOCKS) and len(shape) >= 2 and not name.endswith(ROUTER)
