"""Models that published tables name and that are no presets: `shapes.csv`, each with its origin.

Their shapes are enough to price a training. What else fixes their mathematics (wavelengths of
rotary positions, windows, scales of norms) is not there, so they can be planned but not trained.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any

from motley.model.config import MixtureOfExperts, ModelConfig

_NUMBERS = (
    "layers", "width", "heads", "key_value_heads", "head_width", "mlp_width", "vocab_size",
    "context",
)  # fmt: skip
_WORDS = ("positions", "norm", "activation", "arrangement")
_EXPERTS = (
    "experts", "experts_per_token", "expert_width", "shared_width", "leading_dense_layers",
)  # fmt: skip
ONLY_SHAPE = "what a table of shapes does not say"


@lru_cache(maxsize=1)
def known_shapes() -> dict[str, ModelConfig]:
    """Name to shape."""
    text = resources.files("motley.plan.published").joinpath("shapes.csv").read_text("utf-8")
    return {row["name"]: _shape(row) for row in csv.DictReader(text.splitlines())}


def _shape(row: Mapping[str, str]) -> ModelConfig:
    table: dict[str, Any] = {name: int(row[name]) for name in _NUMBERS if row[name]}
    table |= {name: row[name] for name in _WORDS if row[name]}
    experts: dict[str, Any] = {name: int(row[name]) for name in _EXPERTS if row[name]}
    return ModelConfig(
        **table,
        bias=row["bias"] == "yes",
        query_key_value_bias=row["bias"] in ("yes", "qkv"),
        tied_head=row["tied_head"] == "yes",
        mixture=MixtureOfExperts(**experts) if experts else None,
        planned_only=(ONLY_SHAPE,),
    )
