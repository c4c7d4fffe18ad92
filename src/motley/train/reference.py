"""The small model of a selection: trained alone on this machine's CPU, then only asked for losses.

Its training is an ordinary loop, as it is too small to be worth a plan. What it costs is counted by
`motley.optim.flops.selection_flops`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from motley.data import IGNORE_INDEX, SampleSource
from motley.errors import DivergedError
from motley.model.transformer import Transformer, build_transformer
from motley.optim.optimizer import build_optimizer
from motley.optim.schedule import learning_rate
from motley.recipe import Recipe

SCORED_AT_ONCE = 16
"""Samples of one forward pass."""

Progress = Callable[[float], None]
"""Told how much is done, of 1."""


def train_reference(
    recipe: Recipe, source: SampleSource, first: int, progress: Progress
) -> Iterator[Transformer]:
    """The model after each update, always the same object; positions from `first` on are what it is
    trained on. `DivergedError` if its loss is not finite."""
    model = build_transformer(recipe.model, seed=recipe.seed)
    masters = model.named()
    optimizer = build_optimizer(masters, recipe.optimizer)
    batch, schedule = recipe.batch.global_batch, recipe.schedule
    for step in range(schedule.steps):
        begin = first + step * batch
        loss = _backward(model, source, range(begin, begin + batch))
        if not math.isfinite(loss):
            raise DivergedError(
                f"the reference model of the selection diverged at update {step + 1}.",
                remedy="Lower selection.learning_rate.",
            )
        nn.utils.clip_grad_norm_(list(masters.values()), recipe.optimizer.gradient_clip)
        optimizer.step(learning_rate(1.0, schedule, step), step)
        progress((step + 1) / schedule.steps)
        yield model


def sample_losses(
    model: Transformer, source: SampleSource, positions: range, progress: Progress
) -> NDArray[np.float64]:
    """[n] the mean loss of each position's targets in nats."""
    losses: list[float] = []
    for begin in range(positions.start, positions.stop, SCORED_AT_ONCE):
        losses += _losses(model, source, range(begin, min(begin + SCORED_AT_ONCE, positions.stop)))
        progress(len(losses) / len(positions))
    return np.array(losses)


def _backward(model: Transformer, source: SampleSource, positions: range) -> float:
    """The mean loss of these samples' targets, whose gradient is left in the parameters."""
    tokens_bs, targets_bs = _tensors(source, positions)
    model.zero_grad()
    loss = model.loss(tokens_bs, targets_bs) / source.num_targets(positions)
    torch.autograd.backward(loss)
    return loss.item()


@torch.no_grad()
def _losses(model: Transformer, source: SampleSource, positions: range) -> list[float]:
    tokens_bs, targets_bs = _tensors(source, positions)
    hidden_bsw = model.hidden(tokens_bs)
    rows = zip(torch.split(hidden_bsw, 1), torch.split(targets_bs, 1), strict=True)
    sums = [model.head(hidden_1sw, targets_1s).item() for hidden_1sw, targets_1s in rows]
    counts = (targets_bs != IGNORE_INDEX).sum(1).tolist()
    return [total / count for total, count in zip(sums, counts, strict=True)]


def _tensors(source: SampleSource, positions: range) -> tuple[Tensor, Tensor]:
    inputs, targets = source.batch(positions)
    return torch.from_numpy(inputs), torch.from_numpy(targets)
