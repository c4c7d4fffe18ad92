"""The peer of `mixed.py`: torch's DistributedDataParallel with an even batch on emulated chips.

    torchrun --standalone --nproc-per-node N benchmarks/data_parallel_peer.py JOB.json

Each process drives one emulated chip, paced as motley paces it. The peer is favoured: its
all-reduce is not held to the emulated link and so costs it next to nothing.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from motley.chips.emulated import open_chip
from motley.chips.runtime import Runtime
from motley.cluster import parse_cluster
from motley.data import PreparedData, SampleSource
from motley.model.counts import model_counts
from motley.model.transformer import Transformer, build_transformer
from motley.plan.stack import MOTLEY
from motley.recipe import Recipe, parse_recipe


class LossModule(nn.Module):
    """The model as DDP wants it: a module whose forward gives the loss."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return self.model.loss(tokens, targets)


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    recipe = parse_recipe(job["recipe"])
    chip = parse_cluster(job["cluster"]).chips[dist.get_rank()]
    runtime = open_chip(chip)
    data = PreparedData.load(Path(job["data"]))
    source = SampleSource(data.train, recipe.batch.sequence_length, recipe.seed)
    model = build_transformer(recipe.model, seed=recipe.seed, dtype=runtime.dtype)
    parallel = DistributedDataParallel(LossModule(model))
    optimizer = torch.optim.AdamW(parallel.parameters(), lr=1e-4, fused=True)
    seconds = []
    for step in range(recipe.schedule.steps):
        began = time.monotonic()
        train_step(recipe, runtime, parallel, source, step, job["micro_batch_size"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        num_parameters = sum(parameter.numel() for parameter in parallel.parameters())
        runtime.spend(0.0, MOTLEY.optimizer_bytes * num_parameters)
        dist.barrier()
        runtime.align(max(runtime.now(), time.monotonic()))
        seconds.append(time.monotonic() - began)
    if dist.get_rank() == 0:
        Path(job["result"]).write_text(json.dumps({"step_s": statistics.median(seconds[1:])}))
    dist.destroy_process_group()


def train_step(
    recipe: Recipe,
    runtime: Runtime,
    parallel: DistributedDataParallel,
    source: SampleSource,
    step: int,
    micro_batch_size: int,
) -> None:
    """An even share of the batch, in micro-batches; the last backward reduces the gradients."""
    rank, world, batch = dist.get_rank(), dist.get_world_size(), recipe.batch.global_batch
    first, last = batch * rank // world, batch * (rank + 1) // world
    starts = list(range(first, last, micro_batch_size))
    flops = model_counts(recipe.model, recipe.batch.sequence_length).flops_per_token
    for start in starts:
        stop = min(start + micro_batch_size, last)
        positions = range(step * batch + start, step * batch + stop)
        tokens, targets = (torch.from_numpy(array) for array in source.batch(positions))
        is_last = start == starts[-1]
        parallel.require_backward_grad_sync = is_last
        loss = parallel(tokens, targets) / recipe.tokens_per_step
        loss.backward()
        if is_last:
            runtime.wait_until(time.monotonic())
        runtime.spend(flops * tokens.numel())


if __name__ == "__main__":
    main()
