"""What the readers of Hugging Face families share: keys, activations, rotary positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from motley.errors import RecipeError
from motley.model.config import RopeScaling

Table = Mapping[str, Any]

ACTIVATIONS = {
    "gelu": "gelu_exact",
    "gelu_fast": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "gelu_new": "gelu",
    "relu": "relu",
    "relu2": "relu2",
}
"""Of MLPs without a gate; of two names for one function the later is written."""


def require(config: Table, key: str, *supported: Any, default: Any) -> None:
    """`RecipeError` unless the key has one of the supported values."""
    found = config.get(key, default)
    if found not in supported:
        known = " or ".join(repr(value) for value in supported)
        raise RecipeError(
            f"config.json: {key} is {found!r}, which is not supported.",
            remedy=f"Only {known} is known here.",
        )


def first(config: Table, *keys: str) -> Any:
    """The value of the first key that is there; the last one is named if none is."""
    for key in keys[:-1]:
        if config.get(key) is not None:
            return config[key]
    return config[keys[-1]]


def activation(config: Table, key: str, default: str) -> str:
    require(config, key, *ACTIVATIONS, default=default)
    return ACTIVATIONS[config.get(key, default)]


def rotary_positions(config: Table) -> dict[str, Any]:
    """The fields of rotary positions. Their kinds that the layers do not compute are named in
    `planned_only`; no kind changes what a plan counts.

    In `rope_parameters` since transformers 5; before, `rope_theta` and `rope_scaling`.
    """
    table = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = first(
        {**config, **table, "default": 10000.0}, "rope_theta", "rotary_emb_base", "default"
    )
    kind = table.get("rope_type", table.get("type", "default"))
    keys = ("partial_rotary_factor", "rotary_pct", "default")
    share = float(first({**config, **table, "default": 1.0}, *keys))
    planned_only = []
    if kind not in ("default", "llama3"):
        planned_only.append(f"rotary positions of the kind '{kind}'")
    if share != 1.0:
        planned_only.append(f"rotary positions on {share:g} of each head")
    return {
        "positions": "rotary",
        "rope_theta": float(theta),
        "rope_scaling": _llama3_scaling(table) if kind == "llama3" else None,
        "planned_only": tuple(planned_only),
    }


def _llama3_scaling(table: Table) -> RopeScaling:
    return RopeScaling(
        factor=table["factor"],
        low_freq_factor=table["low_freq_factor"],
        high_freq_factor=table["high_freq_factor"],
        original_context=table["original_max_position_embeddings"],
    )
