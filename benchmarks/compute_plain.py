"""B0 of `compute.py`, a small repository's loop as shipped: `compute_plain.py RUN THREADS`.

GPT-2's block in plain PyTorch, fp32, AdamW with nanoGPT's initial weights, decay groups, warm-up
and cosine. Its hyperparameters (config/train_shakespeare_char.py, without dropout as its README has
it for CPUs) are those of the ladder's rung "b0" and reach this loop through the run's recipe. Text,
order of samples and scoring are those of all runs. It keeps no checkpoints.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compute_worker import write_result
from motley.data import (
    PreparedData,
    SampleSource,
    bits_per_byte,
    evaluation_samples,
    target_bytes,
)
from motley.optim.schedule import learning_rate
from motley.recipe import Recipe
from motley.train.folder import RunFolder, open_run_folder
from motley.train.orphan import follow_parent
from plain_loop import PlainLoop, PlainModel

SCORED_AT_ONCE = 16
"""Samples."""


def initialize(model: PlainModel, layers: int) -> None:
    """nanoGPT's: matrices N(0, 0.02), those onto the stream / sqrt(2 layers), biases 0, norms 1."""
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            nn.init.constant_(parameter, float(name.endswith("weight")))
            continue
        onto_stream = name.endswith(("out.weight", "down.weight"))
        scale = 1 / math.sqrt(2 * layers) if onto_stream else 1.0
        nn.init.normal_(parameter, std=0.02 * scale)


def build_loop(recipe: Recipe) -> PlainLoop:
    """The loop with the recipe's shape, seed and AdamW; vectors are not decayed."""
    loop = PlainLoop(recipe.model, "fp32")
    torch.manual_seed(recipe.seed)
    initialize(loop.model, recipe.model.layers)
    config = recipe.optimizer
    parameters = list(loop.model.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() >= 2]},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    loop.optimizer = torch.optim.AdamW(
        groups,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
        fused=True,
    )
    return loop


@torch.no_grad()
def score(loop: PlainLoop, data: PreparedData, length: int) -> tuple[float, float]:
    """(nats per target, bits per byte) of the whole held-out text, each target once."""
    held_out = evaluation_samples(data.held_out, length)
    loss_sum = num_bytes = 0.0
    num_targets = 0
    for first in range(0, held_out.num_samples, SCORED_AT_ONCE):
        last = min(first + SCORED_AT_ONCE, held_out.num_samples)
        tokens, targets = held_out.batch(range(first, last))
        scored = held_out.num_targets(range(first, last))
        loss = loop.model(torch.from_numpy(tokens), torch.from_numpy(targets))
        loss_sum += float(loss) * scored
        num_targets += scored
        num_bytes += target_bytes(targets, data.token_bytes)
    return loss_sum / num_targets, bits_per_byte(loss_sum, num_bytes)


def train(folder: RunFolder) -> None:
    """All steps of the run's recipe, then the score."""
    recipe, data = folder.recipe(), PreparedData.load(folder.data_folder())
    loop, length = build_loop(recipe), recipe.batch.sequence_length
    source = SampleSource(data.train, length, recipe.seed)
    batch, peak = recipe.batch.global_batch, recipe.optimizer.learning_rate
    process_s, wall_s = time.process_time(), time.monotonic()
    for step in range(recipe.schedule.steps):
        for group in loop.optimizer.param_groups:
            group["lr"] = learning_rate(peak, recipe.schedule, step)
        tokens, targets = source.batch(range(step * batch, (step + 1) * batch))
        loop.step(torch.from_numpy(tokens), torch.from_numpy(targets))
    process_s, wall_s = time.process_time() - process_s, time.monotonic() - wall_s
    began = time.monotonic()
    loss, bits = score(loop, data, length)
    write_result(
        folder,
        steps=recipe.schedule.steps,
        tokens=recipe.schedule.steps * recipe.tokens_per_step,
        bits_per_byte=bits,
        loss=loss,
        process_s=process_s,
        wall_s=wall_s,
        validation_s=time.monotonic() - began,
    )


if __name__ == "__main__":
    follow_parent()
    torch.set_num_threads(int(sys.argv[2]))
    train(open_run_folder(Path(sys.argv[1])))
