"""Parameters, FLOPs and bytes are those of the real layers."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from model_shapes import CONTEXT, OPT_IN
from model_shapes import SHAPES as COMMON_SHAPES
from motley.model.attention import rotary_tables
from motley.model.config import ModelConfig
from motley.model.counts import (
    layer_counts,
    loss_chunk_tokens,
    model_counts,
    parameter_groups,
)
from motley.model.init import initialize
from motley.model.layers import build_layer
from motley.model.presets import PRESETS
from motley.model.stream import BALANCE, PIECES, STREAM, carried, reads
from motley.units import Precision

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
SHAPES = COMMON_SHAPES | OPT_IN
EVERY_LAYER = [(name, layer) for name in SHAPES for layer in (0, 1, 3)]
AHEAD = ("lookahead", 3)
UNLIKE_BLOCKS = ("frugal", "residuals of gpt2", "shared expert")
EVERY_LAYER += [(name, 2) for name in UNLIKE_BLOCKS]


def built(config: ModelConfig, layer: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    module = build_layer(config, layer, dtype=dtype)
    initialize(module, config, layer, 0)
    return module


def inputs(
    config: ModelConfig, layer: int, batch: int, dtype: torch.dtype
) -> tuple[Tensor | None, ...]:
    tokens = torch.randint(config.vocabulary, (batch, config.context))
    if layer == 0:
        return (tokens,)
    pieces = dict.fromkeys(PIECES)
    for name in reads(config, layer):
        width = carried(config, layer)[name]
        piece = torch.randn(batch, config.context, width).to(dtype)
        pieces[name] = piece.requires_grad_()
    if layer == config.num_layers - 1:
        return pieces[STREAM], tokens, pieces[BALANCE]
    return tuple(pieces.values())


def streams(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The stream, without what the first block gives beside it."""
    return outputs if isinstance(outputs, Tensor) else outputs[0]


def bytes_kept(module: nn.Module, args: tuple[Tensor | None, ...], fixed: list[Tensor]) -> int:
    """Bytes of all storages that autograd saves, but the parameters' and the fixed ones."""
    excluded = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *fixed)}
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in excluded:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = streams(module(*args))
    assert out.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize(("name", "layer"), EVERY_LAYER)
def test_activation_bytes_are_what_autograd_keeps(
    name: str, layer: int, precision: Precision, batch: int
) -> None:
    config, dtype = SHAPES[name], DTYPES[precision]
    tables = (
        rotary_tables(config, CONTEXT, torch.device("cpu"), dtype)
        if config.positions == "rotary"
        else ()
    )
    args = inputs(config, layer, batch, dtype)
    kept_elsewhere = [arg for arg in args[1:4] if arg is not None and arg.is_floating_point()]
    fixed = [*tables, *kept_elsewhere] if 0 < layer < config.num_layers - 1 else list(tables)
    balance_bytes = batch * CONTEXT * dtype.itemsize if BALANCE in reads(config, layer) else 0
    kept = bytes_kept(built(config, layer, dtype), args, fixed)
    counted = batch * layer_counts(config, layer, CONTEXT, precision).activation_bytes
    assert kept + balance_bytes == counted


def allocated_peak(function: object) -> tuple[int, int]:
    """Most bytes that a call allocates at any moment, and those still allocated after it."""
    assert callable(function)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        function()
    assert recorded.profiler is not None
    events = recorded.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    current = peak = 0
    for _, change in changes:
        current += change
        peak = max(peak, current)
    return peak, current


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("name", "layer"), EVERY_LAYER)
def test_peak_memory_is_bounded_and_near(name: str, layer: int, precision: Precision) -> None:
    """Kept, workspace and fixed bytes bound what one layer allocates, and by no more than half."""
    config = dataclasses.replace(SHAPES[name], width=192, mlp_width=640, head_width=None)
    config = dataclasses.replace(config, context=128, vocab_size=1000)
    batch, dtype = 2, DTYPES[precision]
    module, args = built(config, layer, dtype), inputs(config, layer, batch, dtype)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    streams(module(*args)).sum().backward()
    if layer:
        for arg in args:
            if arg is not None:
                arg.grad = None
    outputs: list[Tensor] = []
    peak_forward, kept = allocated_peak(lambda: outputs.append(streams(module(*args))))
    gradient = torch.ones_like(outputs[0])
    peak_backward, _ = allocated_peak(lambda: outputs.pop().backward(gradient))
    measured = max(peak_forward, kept + peak_backward)

    counts = layer_counts(config, layer, config.context, precision)
    assert args[0] is not None
    input_bytes = args[0].untyped_storage().nbytes()
    predicted = (
        counts.fixed_bytes
        - input_bytes
        + batch * (counts.activation_bytes + counts.workspace_bytes + counts.output_bytes)
    )
    assert measured <= predicted <= 1.5 * measured


@pytest.mark.parametrize(("name", "layer"), EVERY_LAYER)
def test_parameters_are_counted_exactly(name: str, layer: int) -> None:
    config = SHAPES[name]
    numbers = sum(parameter.numel() for parameter in built(config, layer).parameters())
    assert layer_counts(config, layer, 1, "fp32").parameters == numbers


@pytest.mark.parametrize(("name", "layer"), [each for each in EVERY_LAYER if each != AHEAD])
def test_forward_flops_equal_torchs_count(name: str, layer: int) -> None:
    """torch counts attention over all S x S pairs, ours S (S + 1) / 2; the rest is the same."""
    config, batch = SHAPES[name], 3
    module, args = built(config, layer), inputs(config, layer, batch, torch.float32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*args)
    counted = counter.get_flop_counts().get("Global", {})
    attention = sum(n for op, n in counted.items() if "attention" in str(op))
    others = sum(counted.values()) - attention
    own_attention = 0.0
    if 0 < layer < config.num_layers - 1:
        all_pairs = 4.0 * config.heads * config.head_size * CONTEXT * CONTEXT
        own_attention = all_pairs * (CONTEXT + 1) / (2 * CONTEXT)
        assert attention in (0, batch * all_pairs)
    counts = layer_counts(config, layer, CONTEXT, "fp32")
    assert others == batch * (counts.forward_flops - own_attention)
    assert counts.backward_flops == 2 * counts.forward_flops


def test_both_predictions_of_a_head_are_counted() -> None:
    """The loss makes its gradients in the forward pass, so both passes are taken together; torch
    does not count `addmm_`, which adds up the matrix's."""
    name, layer = AHEAD
    config, batch = SHAPES[name], 3
    module, args = built(config, layer), inputs(config, layer, batch, torch.float32)
    with FlopCounterMode(display=False) as counter:
        module(*args).backward()
    counts = layer_counts(config, layer, CONTEXT, "fp32")
    uncounted = 2 * 2 * config.width * config.vocabulary * CONTEXT
    assert counter.get_total_flops() == batch * (3 * counts.forward_flops - uncounted)


def test_attention_flops_count_causal_pairs() -> None:
    config = SHAPES["gpt2"]
    pairs = sum(position + 1 for position in range(CONTEXT))
    with_attention = layer_counts(config, 1, CONTEXT, "fp32").forward_flops
    without = 2.0 * CONTEXT * 12 * config.width**2
    assert with_attention - without == 2 * 2 * config.width * pairs


@pytest.mark.parametrize("name", SHAPES)
def test_groups_part_the_parameters(name: str) -> None:
    config = SHAPES[name]
    groups = parameter_groups(config)
    total = sum(group.num_parameters for group in groups)
    layers = [layer_counts(config, layer, 1, "fp32") for layer in range(config.num_layers)]
    copies = config.vocabulary * config.width if config.tied_head else 0
    assert total == sum(counts.parameters for counts in layers) - copies
    tied = [group for group in groups if group.layers == (0, config.num_layers - 1)]
    assert [group.name for group in tied] == ["token embedding"] * config.tied_head


def test_a_tied_embedding_without_positions_has_no_group_of_its_own() -> None:
    names = [group.name for group in parameter_groups(SHAPES["qwen3"])]
    assert names == ["token embedding", "layer 1", "layer 2", "layer 3"]


def test_output_bytes() -> None:
    config = SHAPES["gpt2"]
    assert layer_counts(config, 1, 8, "bf16").output_bytes == 8 * config.width * 2
    assert layer_counts(config, 3, 8, "bf16").output_bytes == 0


def test_flops_per_token_are_near_six_per_parameter() -> None:
    counts = model_counts(PRESETS["llama3-8b"], 1)
    body = counts.parameters - 128256 * 4096
    assert counts.flops_per_token == pytest.approx(6 * body, rel=1e-3)


def test_the_loss_takes_enough_tokens_at_once_but_not_too_many() -> None:
    assert [loss_chunk_tokens(width) for width in (48, 768, 8192)] == [128, 768, 1024]


@pytest.mark.parametrize("layer", [-1, 4])
def test_a_layer_that_the_model_lacks(layer: int) -> None:
    with pytest.raises(IndexError, match="layers 0 to 3"):
        layer_counts(SHAPES["gpt2"], layer, CONTEXT, "fp32")


def test_counting_imports_no_torch() -> None:
    code = (
        "import sys, motley.model, motley.model.config, motley.model.presets as p;"
        "motley.model.model_counts(p.PRESETS['gpt2'], 8); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_vocabulary_must_be_known() -> None:
    config = dataclasses.replace(SHAPES["gpt2"], vocab_size=None)
    with pytest.raises(ValueError, match="vocab_size"):
        layer_counts(config, 0, CONTEXT, "fp32")
