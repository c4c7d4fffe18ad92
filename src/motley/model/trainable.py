"""Which models motley's own layers compute, and so can be trained; the others can be planned."""

from __future__ import annotations

from collections.abc import Iterator

from motley.errors import RecipeError
from motley.model.config import ModelConfig


def require_trainable(config: ModelConfig) -> None:
    """`RecipeError` that names all that `motley.model.layers` does not compute of this model."""
    missing = list(_not_computed(config))
    if missing:
        raise RecipeError(
            f"the model can be planned but not trained: motley's layers do not compute "
            f"{'; '.join(missing)}.",
            remedy="Train a model without that, or train by the plan with software that has it.",
        )


def _not_computed(config: ModelConfig) -> Iterator[str]:
    if config.latent is not None:
        yield "latent attention"
    if config.positions == "alibi":
        yield "ALiBi positions"
    if config.activation == "geglu":
        yield "the activation 'geglu'"
    if config.arrangement != "pre_norm":
        yield f"blocks in the arrangement '{config.arrangement}'"
    if config.embedding_width is not None:
        yield "an embedding of another width than the stream"
    window = config.attention_window
    if window is not None and window < config.context:
        yield f"attention within a window of {window} tokens, which the context exceeds"
    yield from config.planned_only
