"""The memory model against PyTorch's own trackers, for real shapes on fake tensors."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from motley.model.layers import Block, Embedding, Head
from motley.model.named import model_named
from motley.model.transformer import Transformer
from motley.plan.layout import Layout
from motley.plan.memory.held import held_parameters
from motley.plan.memory.peak import StageMemory
from motley.plan.memory.stage import stage_memory
from motley.plan.stack import PYTORCH, TORCHTITAN, Stack
from motley.units import Precision
from tracked_memory import Tracked, track, track_sharded

pytestmark = pytest.mark.filterwarnings("ignore")
"""torch warns of its trackers' and fake groups' own insides."""

TOLERANCE = 0.05
COPY_BYTES = 2
"""Of a parameter that autocast keeps in bf16; the tracker counts it among the activations."""


def predicted(
    name: str,
    layers: int,
    samples: int,
    length: int,
    precision: Precision,
    layout: Layout,
    stack: Stack,
) -> StageMemory:
    config = dataclasses.replace(model_named(name), layers=layers)
    return stage_memory(
        config, length, precision, (0, config.num_layers), num_in_flight=1,
        micro_batch_size=samples * layout.data, layout=layout, stack=stack, accumulates=False,
    )  # fmt: skip


def check(tracked: Tracked, need: StageMemory, copies: int = 0) -> None:
    """State, what comes and goes with a step, and the sum, each within the bound."""
    state = tracked.parameters + tracked.optimizer
    assert need.state_bytes - copies == pytest.approx(state, rel=TOLERANCE)
    passing = need.activation_bytes + need.transient_bytes + need.buffer_bytes
    assert passing + copies == pytest.approx(tracked.total - state, rel=TOLERANCE)
    assert need.allocated_bytes == pytest.approx(tracked.total, rel=TOLERANCE)


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_gpt2_in_fp32_on_one_device(recompute: bool) -> None:
    config = dataclasses.replace(model_named("gpt2"), layers=6)
    tracked = track(config, 4, 1024, recompute=recompute)
    layout = Layout(recompute="full" if recompute else "none")
    check(tracked, predicted("gpt2", 6, 4, 1024, "fp32", layout, PYTORCH))


def test_gpt2_with_autocast() -> None:
    config = dataclasses.replace(model_named("gpt2"), layers=6)
    tracked = track(config, 4, 1024, autocast=True)
    need = predicted("gpt2", 6, 4, 1024, "bf16", Layout(), PYTORCH)
    check(tracked, need, COPY_BYTES * held_parameters(config, 0, config.num_layers))


@pytest.mark.parametrize(
    ("name", "layers", "members", "length", "recompute"),
    [
        ("llama3-8b", 4, 8, 8192, False),
        ("llama3-8b", 4, 8, 1024, True),
        ("llama3-70b", 4, 64, 4096, True),
        ("llama3-70b", 4, 64, 4096, False),
    ],
)
def test_llama_fully_sharded(
    name: str, layers: int, members: int, length: int, recompute: bool
) -> None:
    """Some of the blocks: all are alike; the benchmark follows whole models."""
    config = dataclasses.replace(model_named(name), layers=layers)
    tracked = track_sharded(config, 1, length, members=members, recompute=recompute)
    layout = Layout(data=members, sharding="full", recompute="full" if recompute else "none")
    need = predicted(name, layers, 1, length, "bf16", layout, TORCHTITAN)
    check(tracked, need)


@pytest.mark.parametrize(
    ("name", "layers", "samples", "length", "precision"),
    [("gpt2", 4, 4, 1024, "bf16"), ("llama3-8b", 2, 1, 2048, "bf16")],
)
def test_own_layers(
    name: str, layers: int, samples: int, length: int, precision: Precision
) -> None:
    """What motley's own layers and chunked loss keep; its optimizer and buffers are not there."""
    config = dataclasses.replace(model_named(name), layers=layers)
    with FakeTensorMode():
        torch.set_default_dtype(torch.bfloat16)
        try:
            blocks = [Block(config, layer) for layer in range(1, layers + 1)]
            model = Transformer(config, [Embedding(config), *blocks, Head(config)])
        finally:
            torch.set_default_dtype(torch.float32)
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        tracker = MemTracker()
        tracker.track_external(model)
        tokens = torch.zeros(samples, length, dtype=torch.int64)
        with tracker:
            model.loss(tokens, tokens).backward()
    (peak,) = tracker.get_tracker_snapshot("peak").values()
    sizes = {str(kind).rpartition(".")[2]: size for kind, size in peak.items()}
    need = stage_memory(
        config, length, precision, (0, config.num_layers), num_in_flight=1, micro_batch_size=samples
    )
    changing = need.activation_bytes + need.transient_bytes
    assert changing == pytest.approx(sizes["ACT"] + sizes["TEMP"], rel=TOLERANCE)
    assert changing >= sizes["ACT"] + sizes["TEMP"]
