"""AdamW with moments of 8 bits: about 2 bytes of state for each parameter instead of 8.

As in Dettmers et al. (arXiv 2110.02861) blocks of neighbouring elements share a scale, the largest
magnitude among them. Codes here are even steps of the logarithm, so that all magnitudes have the
same relative error, and the root of the second moment is what is coded: it is what the update is
divided by, and it spans half the range. Steps of a moment are smaller than those of its code, so
codes are rounded up or down by an even spread over elements and updates; it is computed, not
drawn, and the same after a resume.

Shapes: b blocks, e elements of a block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from motley.optim.adamw import decay_where_shrinking
from motley.optim.roles import role_of
from motley.optim.sizes import BLOCK_ELEMENTS, PIECE_BLOCKS
from motley.recipe import OptimizerConfig

FIRST_LEVELS, FIRST_OCTAVES = 127, 20
"""Codes of either sign of a first moment, and the range of magnitudes below the largest."""
SECOND_LEVELS, SECOND_OCTAVES = 255, 24
_GOLDEN, _SILVER = 2654435769, 1779033703
"""2^32 over the golden ratio, and 2^32 times the fraction of 2^(1/2) + 1: multiples of either fill
[0, 2^32) evenly."""


@dataclass(frozen=True)
class _State:
    first_be: Tensor
    """int8; the sign is the moment's, 0 is zero."""
    first_scale_b: Tensor
    second_be: Tensor
    """uint8, of the root."""
    second_scale_b: Tensor
    update: Tensor
    """Count of updates."""


class EightBitAdamW:
    """Updates the named parameters from their `grad`."""

    def __init__(self, masters: Mapping[str, nn.Parameter], config: OptimizerConfig) -> None:
        self._masters = dict(masters)
        self._config = config
        self._states = {name: _new_state(master) for name, master in self._masters.items()}

    @torch.no_grad()
    def step(self, share: float, update: int) -> None:
        """One update at `share` of the peak rates."""
        for name, master in self._masters.items():
            state, role = self._states[name], role_of(name, master.shape)
            assert master.grad is not None
            state.update.add_(1)
            count = int(state.update)
            rate = self._config.peak_rate(role) * share
            flat, gradient = master.view(-1), master.grad.reshape(-1)
            for first in range(0, len(state.first_be), PIECE_BLOCKS):
                blocks = slice(first, first + PIECE_BLOCKS)
                elements = slice(first * BLOCK_ELEMENTS, (first + PIECE_BLOCKS) * BLOCK_ELEMENTS)
                directions = self._moments(state, blocks, gradient[elements], count)
                self._move(flat[elements], *directions, rate, rate * self._config.decay(role))

    def _moments(
        self, state: _State, blocks: slice, gradient: Tensor, count: int
    ) -> tuple[Tensor, Tensor]:
        """The new first moment and the divisor, of the piece's elements; their codes are kept."""
        beta1, beta2 = self._config.beta1, self._config.beta2
        first_be = _decode(
            state.first_be[blocks], state.first_scale_b[blocks], FIRST_LEVELS, FIRST_OCTAVES
        )
        root_be = _decode(
            state.second_be[blocks], state.second_scale_b[blocks], SECOND_LEVELS, SECOND_OCTAVES
        )
        padding = first_be.numel() - gradient.numel()
        gradient_be = functional.pad(gradient, (0, padding)).view_as(first_be)
        first_be.lerp_(gradient_be, 1 - beta1)
        root_be = (
            root_be.square_()
            .mul_(beta2)
            .addcmul_(gradient_be, gradient_be, value=1 - beta2)
            .sqrt_()
        )
        spread_be = _spread(blocks.start, first_be, count)
        state.first_scale_b[blocks] = _encode(
            first_be, spread_be, state.first_be[blocks], FIRST_LEVELS, FIRST_OCTAVES, least=0
        )
        state.second_scale_b[blocks] = _encode(
            root_be, spread_be, state.second_be[blocks], SECOND_LEVELS, SECOND_OCTAVES, least=1
        )
        first = first_be.view(-1)[: gradient.numel()] / (1 - beta1**count)
        root = root_be.view(-1)[: gradient.numel()] / (1 - beta2**count) ** 0.5
        return first, root.add_(self._config.epsilon)

    def _move(
        self, weights: Tensor, first: Tensor, divisor: Tensor, rate: float, decayed: float
    ) -> None:
        if self._config.cautious_weight_decay:
            decay_where_shrinking(weights, first, decayed)
        else:
            weights.mul_(1 - decayed)
        weights.addcdiv_(first, divisor, value=-rate)

    def state(self, name: str) -> dict[str, Tensor]:
        """Live codes, scales and count of updates; empty if it is not this optimizer's."""
        state = self._states.get(name)
        if state is None:
            return {}
        return {
            "first_moment_codes": state.first_be,
            "first_moment_scales": state.first_scale_b,
            "second_moment_codes": state.second_be,
            "second_moment_scales": state.second_scale_b,
            "update": state.update,
        }


def _new_state(master: Tensor) -> _State:
    blocks, device = -(-master.numel() // BLOCK_ELEMENTS), master.device
    return _State(
        torch.zeros(blocks, BLOCK_ELEMENTS, dtype=torch.int8, device=device),
        torch.zeros(blocks, device=device),
        torch.zeros(blocks, BLOCK_ELEMENTS, dtype=torch.uint8, device=device),
        torch.zeros(blocks, device=device),
        torch.zeros((), dtype=torch.int64),
    )


def _decode(codes_be: Tensor, scale_b: Tensor, levels: int, octaves: int) -> Tensor:
    """Code +-n of `levels` means +-scale x 2^(-octaves x (levels - |n|) / (levels - 1))."""
    number_be = codes_be.float()
    exponent_be = (number_be.abs() - levels).mul_(octaves / (levels - 1))
    return exponent_be.exp2_().mul_(number_be.sign()).mul_(scale_b.unsqueeze(1))


def _encode(
    values_be: Tensor, spread_be: Tensor, codes_be: Tensor, levels: int, octaves: int, least: int
) -> Tensor:
    """Writes the codes of the values, at least `least`; returns the blocks' scales.

    Code 0 is zero. A first moment must be able to vanish: an element without gradients would drift
    for ever. A second moment must not, as it divides.
    """
    magnitude_be = values_be.abs()
    scale_b = magnitude_be.amax(dim=1)
    share_be = magnitude_be / scale_b.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(1)
    number_be = share_be.log2().mul_((levels - 1) / octaves).add_(levels)
    number_be = number_be.add_(spread_be).floor_().clamp_(min=least, max=levels)
    codes_be.copy_(number_be.mul_(values_be.sign()))
    return scale_b


def _spread(first_block: int, like_be: Tensor, count: int) -> Tensor:
    """A number in [0, 1) for each element and update."""
    begin = first_block * BLOCK_ELEMENTS
    index = torch.arange(begin, begin + like_be.numel(), device=like_be.device)
    mixed = (index * _GOLDEN + count * _SILVER) & 0xFFFFFFFF
    return (mixed.float() / 2**32).clamp_(max=1 - 2**-24).view_as(like_be)
