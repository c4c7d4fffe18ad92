"""Initial parameters that depend on the seed and the parameter's global name alone.

Every parameter is drawn on the CPU from a generator of its own, so any split of the layers over
any chips starts from the same bits. Draws are made in float64 and rounded: the logarithms and
cosines of different CPUs differ in float64's last bits, which the rounding to fp32 takes away.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor, nn

from motley.model.config import BLOCKS, STANDARD_DEVIATION, ModelConfig
from motley.model.layers import parameter_name
from motley.model.table_config import TABLES

HEAD_MATRIX = "head.output"
MULTIPLIED = (BLOCKS, "head.ahead.", "embedding.ngram_projection.")
"""How the names of matrices begin that turn activations of a width into activations of a width."""
RESIDUAL_PROJECTIONS = ("attention.output.weight", ".down.weight")
"""What adds to the residual stream; scaled by 1 / sqrt(2 x layers), as in GPT-2."""
MIXES = {
    ".input_mix": (1.0, 0.0),
    ".attention.value_mix": (0.5, 0.5),
    ".attention.table_mix": (1.0, 1.0),
}
"""Weights of mixes: nothing of the input, and both values alike, as in modded-nanogpt. Rows of
tables are zero at the start."""
_PIECE = 2**20


def initialize(module: nn.Module, config: ModelConfig, layer: int, seed: int) -> None:
    """Set the parameters of one layer: matrices normal, biases and tables 0, norms 1, and mixes to
    `MIXES`."""
    for local_name, parameter in module.named_parameters():
        name = parameter_name(config, layer, local_name)
        with torch.no_grad():
            parameter.copy_(initial_value(config, name, parameter.shape, seed))


def initial_value(config: ModelConfig, name: str, shape: torch.Size, seed: int) -> Tensor:
    """The initial value of the parameter with that global name, fp32 on the CPU."""
    if name.endswith(".bias") or name.startswith(TABLES):
        return torch.zeros(shape)
    for ending, weights in MIXES.items():
        if name.endswith(ending):
            return torch.tensor(weights)
    if len(shape) == 1:
        return torch.ones(shape)
    is_residual = name.endswith(RESIDUAL_PROJECTIONS)
    if is_residual and config.zero_init:
        return torch.zeros(shape)
    scale = 1 / math.sqrt(2 * config.layers) if is_residual else 1.0
    return _normal(shape, _deviation(config, name) * scale, _generator(name, seed))


def _deviation(config: ModelConfig, name: str) -> float:
    """Of a matrix that does not add to the residual stream."""
    own = None
    if name.startswith(MULTIPLIED):
        own = config.matrix_deviation
    elif name == HEAD_MATRIX:
        own = config.head_deviation
    return STANDARD_DEVIATION if own is None else own


def _normal(shape: torch.Size, deviation: float, generator: torch.Generator) -> Tensor:
    values = torch.empty(shape)
    for piece in torch.split(values.view(-1), _PIECE):
        piece.copy_(torch.randn(len(piece), generator=generator, dtype=torch.float64) * deviation)
    return values


def _generator(name: str, seed: int) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))
