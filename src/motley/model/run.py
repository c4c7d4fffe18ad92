"""Layers called one by one, each with the pieces that it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from motley.model.config import ModelConfig
from motley.model.stream import PIECES, TOKENS, reads, writes


def run_layer(
    module: nn.Module, config: ModelConfig, layer: int, pieces: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The pieces that the embedding or a block writes; `pieces` holds those that it reads."""
    if layer == 0:
        outputs = module(pieces[TOKENS])
    else:
        wanted = reads(config, layer)
        outputs = module(*(pieces[each] if each in wanted else None for each in PIECES))
    if isinstance(outputs, Tensor):
        outputs = (outputs,)
    return dict(zip(writes(config, layer), outputs, strict=True))


def run_blocks(
    config: ModelConfig, layers: Sequence[nn.Module], tokens_bs: Tensor
) -> dict[str, Tensor]:
    """What all layers but the head write."""
    pieces = {TOKENS: tokens_bs}
    for layer, module in enumerate(layers[:-1]):
        pieces |= run_layer(module, config, layer, pieces)
    return pieces
