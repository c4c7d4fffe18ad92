"""Validation: the same held-out samples under any plan, scored forward only by all replicas."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from motley.data.batches import SampleSource, bits_per_byte
from motley.model.stream import carried_width
from motley.train.engine import Engine


def validate(
    engine: Engine, held_out: SampleSource, token_bytes: Tensor, max_samples: int
) -> tuple[float, float]:
    """(nats per target, bits per byte) over the first `max_samples` held-out samples.

    `token_bytes`: [vocab] float64, UTF-8 bytes that each token stands for.
    """
    num_samples = min(max_samples, held_out.num_samples)
    samples = _share(engine, num_samples)
    size = engine.placement.replica.micro_batch_size
    batches = [range(first, min(first + size, samples.stop)) for first in samples[::size]]
    if engine.edges.inputs:
        width = carried_width(engine.recipe.model, engine.placement.stage.first_layer)
        shape = (engine.recipe.batch.sequence_length, width)
        engine.edges.inputs.expect([(len(batch), *shape) for batch in batches])
    totals = torch.zeros(3, dtype=torch.float64)
    for batch in batches:
        totals += _score(engine, held_out, batch, token_bytes)
    if engine.edges.outputs:
        engine.edges.outputs.finish()
    dist.all_reduce(totals, group=engine.control)
    engine.align()
    loss_sum, num_targets, num_bytes = totals.tolist()
    return loss_sum / max(num_targets, 1.0), bits_per_byte(loss_sum, round(num_bytes))


def _share(engine: Engine, num_samples: int) -> range:
    """This replica's part, in proportion to its share of the training batch."""
    replica = engine.placement.replica
    before, whole = engine.placement.first_sample, engine.recipe.batch.global_batch
    first, last = (num_samples * bound // whole for bound in (before, before + replica.num_samples))
    return range(first, last)


def _score(engine: Engine, held_out: SampleSource, batch: range, token_bytes: Tensor) -> Tensor:
    place, device = engine.placement, engine.runtime.device
    tokens, targets = (torch.from_numpy(array) for array in held_out.batch(batch))
    stage_input = tokens.to(device) if place.is_first else _receive(engine)
    with engine.timer.span("forward"):
        output = engine.runner.evaluate(stage_input, targets.to(device) if place.is_last else None)
    if not place.is_last:
        assert engine.edges.outputs is not None
        engine.edges.outputs.send(output)
        return torch.zeros(3, dtype=torch.float64)
    scored = targets[targets >= 0]
    return torch.tensor(
        [float(output), float(scored.numel()), float(token_bytes[scored].sum())],
        dtype=torch.float64,
    )


def _receive(engine: Engine) -> Tensor:
    assert engine.edges.inputs is not None
    with engine.timer.span("wait"):
        return engine.edges.inputs.receive()
