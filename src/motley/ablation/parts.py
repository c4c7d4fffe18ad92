"""The ladder of `motley ablate` when none is given: the recipe without each of its techniques.

What stands in a technique's place is what a recipe has that does not name it, or GPT-2's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from motley.ablation.changes import UNSET, changed
from motley.ablation.ladder import Variant
from motley.errors import InputError, RecipeError
from motley.recipe import Recipe

ADAMW_MATRIX_RATE = 1.5e-3
"""Of the blocks' matrices where Muon is left out: the rate of recipes/gpt2-adamw.toml. A recipe's
own `learning_rate` is then that of embedding and head, which want a higher one beside Muon."""

_WITHOUT_MUON: dict[str, Any] = {
    "optimizer.kind": "adamw",
    "optimizer.matrix_learning_rate": ADAMW_MATRIX_RATE,
    "optimizer.matrix_weight_decay": UNSET,
    **{
        f"optimizer.{key}": UNSET
        for key in (
            "momentum", "momentum_warmup_steps", "orthogonal_iterations",
            "orthogonal_coefficients", "orthogonal_every",
        )
    },
}  # fmt: skip
_WITHOUT: dict[str, dict[str, Any]] = {
    "norms of queries and keys": {"model.qk_norm": False},
    "zero start": {"model.zero_init": False},
    "logit cap": {"model.logit_softcap": UNSET},
    "untied head": {"model.tied_head": True},
    "input residual": {"model.input_residual": False},
    "value residual": {"model.value_residual": False},
    "tables": {"model.tables": UNSET},
    "lookahead": {"model.lookahead_weight": UNSET},
    "experts": {"model.mixture": UNSET},
    "sampled targets": {"model.sampled_targets": UNSET},
    "cautious weight decay": {"optimizer.cautious_weight_decay": False},
    "8-bit moments": {"optimizer.state_bits": 32},
    "batch warm-up": {"schedule.batch_warmup": UNSET, "schedule.batch_warmup_steps": UNSET},
    "sequence warm-up": {
        "schedule.sequence_warmup": UNSET, "schedule.sequence_warmup_steps": UNSET,
    },
    "tail average": {"schedule.tail_average_share": UNSET},
    "selection": {"selection": UNSET},
    "growth": {"growth": UNSET},
}  # fmt: skip


def without_each(recipe: Recipe, report: Callable[[str], None]) -> tuple[Variant, ...]:
    """One variant for each technique that the recipe has, without it; `report` is told of those
    that it cannot be without. `InputError` if none is left."""
    variants = []
    for part, changes in _parts_of(recipe).items():
        try:
            is_there = changed(recipe, changes) != recipe
        except RecipeError as wrong:
            report(f"'without {part}' is left out: {wrong.message}")
            continue
        if is_there:
            variants.append(Variant(name=f"without {part}", set=changes))
    if not variants:
        raise InputError(
            "the recipe has no technique to leave out.",
            remedy="Give --set key=value (once for each variant), or --ladder FILE.",
        )
    return tuple(variants)


def _parts_of(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """What to change for each part that there can be."""
    model, parts = recipe.model, dict(_WITHOUT)
    if model.positions == "rotary":
        rotary = ("model.rope_theta", "model.rope_scaling")
        parts["rotary positions"] = {"model.positions": "learned", **dict.fromkeys(rotary, UNSET)}
    if model.norm == "rmsnorm":
        parts["RMSNorm"] = {"model.norm": "layernorm"}
    if model.activation not in ("gelu", "gelu_exact"):
        parts[model.activation] = {"model.activation": "gelu"}
    if recipe.optimizer.orthogonalises:
        parts[recipe.optimizer.kind] = _WITHOUT_MUON
    if recipe.schedule.decay == "wsd":
        parts["wsd"] = {"schedule.decay": "linear", "schedule.decay_share": UNSET}
    return parts
