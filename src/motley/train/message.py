"""Messages of a pipeline's edge: the pieces that are alive there, one behind the other.

A message has the shape [b, s, all widths]. If there are several pieces each lies in one run of the
memory, so that taking them out of a message copies nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from motley.model.config import ModelConfig
from motley.model.stream import carried


def pack(config: ModelConfig, layer: int, pieces: Mapping[str, Tensor]) -> Tensor:
    """The message that passes before a layer: pieces, or their gradients."""
    wanted = [pieces[name] for name in carried(config, layer)]
    if len(wanted) == 1:
        return wanted[0]
    joined = torch.cat([piece.reshape(-1) for piece in wanted])
    return joined.view(*wanted[0].shape[:2], -1)


def unpack(config: ModelConfig, layer: int, message: Tensor) -> dict[str, Tensor]:
    """The pieces of such a message, which they share their memory with."""
    widths = carried(config, layer)
    if len(widths) == 1:
        return dict.fromkeys(widths, message)
    batch, length, _ = message.shape
    sizes = [batch * length * width for width in widths.values()]
    flat = torch.split(message.reshape(-1), sizes)
    return {
        name: piece.view(batch, length, width)
        for (name, width), piece in zip(widths.items(), flat, strict=True)
    }
