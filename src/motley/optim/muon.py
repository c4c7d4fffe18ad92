"""Muon and NorMuon: the momentum of each matrix is orthogonalised before it moves the matrix.

Ranks that hold the same matrix share the work: its one owner keeps the momentum and computes the
direction, which takes the place of the gradient everywhere. The update itself is elementwise and
the same on all ranks, so the copies stay equal to the last bit.

Shapes: k matrices of one shape, m rows, n >= m columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from motley.optim.adamw import decay_where_shrinking
from motley.optim.orthogonal import orthogonalise
from motley.optim.products import orthogonal_flops
from motley.optim.schedule import momentum
from motley.optim.sizes import STACK_ELEMENTS
from motley.recipe import OptimizerConfig


def _nothing() -> None:
    """No other rank holds the matrices."""


class Muon:
    """Updates the named matrices [outputs, inputs], or stacks of them, from their `grad`, which it
    overwrites with the direction.

    `foreign` are those whose direction another rank computes; `exchange` fetches these and gives
    out the own ones. `spend` is told the FLOPs of the products.
    """

    def __init__(
        self,
        masters: Mapping[str, nn.Parameter],
        config: OptimizerConfig,
        dtype: torch.dtype = torch.float32,
        *,
        foreign: frozenset[str] = frozenset(),
        exchange: Callable[[], None] = _nothing,
        spend: Callable[[float], None] = lambda flops: None,
    ) -> None:
        self._masters = dict(masters)
        self._config = config
        self._dtype = dtype
        self._exchange = exchange
        self._spend = spend
        own = [name for name in self._masters if name not in foreign]
        self._momenta = {name: torch.zeros_like(self._masters[name]) for name in own}
        self._neurons: dict[str, Tensor] = {}
        if config.kind == "normuon":
            self._neurons = {name: _neuron_moments(self._masters[name]) for name in own}
        self._stacks = list(_stacks({name: self._masters[name].shape for name in own}))
        self._flops = sum(_flops(self._masters[name].shape, config, dtype.itemsize) for name in own)

    @torch.no_grad()
    def step(self, share: float, update: int) -> None:
        """One update at `share` of the peak rate; `update` counts from 0."""
        config = self._config
        gradients = {name: _gradient(master) for name, master in self._masters.items()}
        keep = momentum(config, update)
        if self._momenta:
            own = [gradients[name] for name in self._momenta]
            torch._foreach_lerp_(list(self._momenta.values()), own, 1 - keep)
        if (update + 1) % config.orthogonal_every:
            return
        if self._momenta:
            torch._foreach_lerp_(own, list(self._momenta.values()), keep)
        for names in self._stacks:
            self._find_directions(names, gradients)
        self._spend(self._flops)
        self._exchange()
        rate = config.peak_rate("matrix") * share * config.orthogonal_every
        for name, master in self._masters.items():
            self._move(master, gradients[name], rate)

    def _find_directions(self, names: Sequence[str], gradients: Mapping[str, Tensor]) -> None:
        """Puts the directions of matrices of one shape in the place of their gradients."""
        pieces = [_as_wide_stack(gradients[name]) for name in names]
        stack_kmn = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
        directions_kmn = orthogonalise(stack_kmn, self._config, self._dtype)
        sizes = [len(piece) for piece in pieces]
        for name, piece, found in zip(
            names, pieces, torch.split(directions_kmn, sizes), strict=True
        ):
            if name in self._neurons:
                found = even_out(found, self._neurons[name], self._config.beta2)
            piece.copy_(found)

    def _move(self, master: Tensor, direction: Tensor, rate: float) -> None:
        amount = rate * self._config.decay("matrix")
        if self._config.cautious_weight_decay:
            decay_where_shrinking(master, direction, amount)
        else:
            master.mul_(1 - amount)
        master.add_(direction, alpha=-rate * shape_factor(master.shape))

    def state(self, name: str) -> dict[str, Tensor]:
        """Live momentum, and NorMuon's moments of the neurons; empty if another rank has them."""
        found = {}
        if name in self._momenta:
            found["momentum"] = self._momenta[name]
        if name in self._neurons:
            found["neuron_moment"] = self._neurons[name]
        return found


def shape_factor(shape: Sequence[int]) -> float:
    """What Muon's rate is multiplied by for a matrix [outputs, inputs]: steps of equal size in the
    norm from inputs to outputs (Keller Jordan 2024; `adjust_lr_fn="original"` in PyTorch)."""
    return math.sqrt(max(1.0, shape[-2] / shape[-1]))


def even_out(directions_kmn: Tensor, moments_kl: Tensor, beta: float) -> Tensor:
    """NorMuon (arXiv 2510.05491): each neuron's part divided by its running root mean square, the
    norm of the whole kept.

    The neurons are those of the longer side, whose parts orthogonalising leaves unlike; of a
    square's the outputs. Updates `moments_kl` [k, longer side].
    """
    is_square = directions_kmn.shape[-2] == directions_kmn.shape[-1]
    dim = -1 if is_square else -2
    moments_kl.lerp_(directions_kmn.square().mean(dim=dim).view_as(moments_kl), 1 - beta)
    spread = moments_kl.view(len(directions_kmn), -1).unsqueeze(dim).sqrt().clamp_(min=1e-10)
    evened_kmn = directions_kmn / spread
    norms = [
        torch.linalg.matrix_norm(each, keepdim=True).clamp_(min=1e-10)
        for each in (directions_kmn, evened_kmn)
    ]
    return evened_kmn.mul_(norms[0] / norms[1])


def _flops(shape: Sequence[int], config: OptimizerConfig, element_bytes: int) -> float:
    *stack, outputs, inputs = shape
    alone = orthogonal_flops(outputs, inputs, config.orthogonal_iterations, element_bytes)
    return math.prod(stack) * alone


def _neuron_moments(master: Tensor) -> Tensor:
    return master.new_zeros(*master.shape[:-2], max(master.shape[-2:]))


def _gradient(master: nn.Parameter) -> Tensor:
    assert master.grad is not None
    return master.grad


def _as_wide_stack(matrix: Tensor) -> Tensor:
    """A view [k, m, n] with n >= m of one matrix or a stack."""
    rows, columns = matrix.shape[-2:]
    stack = matrix.reshape(-1, rows, columns)
    return stack.mT if rows > columns else stack


def _stacks(shapes: Mapping[str, torch.Size]) -> Iterator[list[str]]:
    """Names of matrices that are orthogonalised together: alike but for the orientation."""
    alike: dict[tuple[int, ...], list[str]] = {}
    for name, shape in shapes.items():
        alike.setdefault(tuple(sorted(shape[-2:])), []).append(name)
    for names in alike.values():
        stack: list[str] = []
        for name in names:
            size = sum(shapes[each].numel() for each in (*stack, name))
            if stack and size > STACK_ELEMENTS:
                yield stack
                stack = []
            stack.append(name)
        yield stack
