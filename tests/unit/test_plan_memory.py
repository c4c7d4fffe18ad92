"""What a stage's memory is made of, and what changes it."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley.cluster import Cluster, parse_cluster
from motley.model.config import MixtureOfExperts, ModelConfig
from motley.model.counts import layer_counts, parameter_groups
from motley.model.presets import PRESETS
from motley.plan.layout import Layout, Recompute, Sharding
from motley.plan.memory.footprint import CHANNEL_BYTES, MARGIN
from motley.plan.memory.held import held_in_stage, held_parameters
from motley.plan.memory.layer_memory import layer_memory
from motley.plan.memory.peak import StageMemory, device_memory
from motley.plan.memory.stage import stage_memory
from motley.plan.plan import Replica, Stage
from motley.plan.search.search import search
from motley.plan.space import ANY
from motley.plan.stack import (
    DEEPSPEED,
    LLM_FOUNDRY,
    MEGATRON,
    MEGATRON_2021,
    MOTLEY,
    STACKS,
    TORCHTITAN,
    Stack,
)
from motley.plan.validate import stage_needs
from motley.units import Precision
from plan_cases import make_recipe

CONFIG = ModelConfig(layers=4, width=64, heads=4, vocab_size=1000, context=64)
LENGTH = 64
FULL = Layout(recompute="full")


def total(
    layers: tuple[int, int],
    *,
    precision: Precision = "fp32",
    num_in_flight: int = 1,
    micro_batch_size: int = 1,
    recompute: Recompute = "none",
) -> int:
    return stage_memory(
        CONFIG,
        LENGTH,
        precision,
        layers,
        num_in_flight=num_in_flight,
        micro_batch_size=micro_batch_size,
        layout=Layout(recompute=recompute),
    ).total_bytes


def whole(
    config: ModelConfig, layout: Layout, stack: Stack, *, samples: int = 8, length: int = 2048
) -> StageMemory:
    return stage_memory(
        config,
        length,
        "bf16",
        (0, config.num_layers),
        num_in_flight=1,
        micro_batch_size=samples,
        layout=layout,
        stack=stack,
    )


def test_the_parts_of_a_middle_stage_in_fp32() -> None:
    block = layer_counts(CONFIG, 2, LENGTH, "fp32")
    need = stage_memory(CONFIG, LENGTH, "fp32", (2, 4), num_in_flight=3, micro_batch_size=2)
    boundary = 2 * LENGTH * 64 * 4
    assert need.state_bytes == 16 * 2 * block.parameters
    assert need.activation_bytes == 3 * 2 * (2 * block.activation_bytes + block.output_bytes)
    assert need.transient_bytes == 2 * block.workspace_bytes + block.fixed_bytes
    assert need.buffer_bytes == 2 * 2 * 2 * boundary + 4 * 2 * block.parameters
    parts = need.state_bytes + need.activation_bytes + need.transient_bytes + need.buffer_bytes
    assert need.total_bytes == pytest.approx(parts * (1 + MARGIN), abs=1)
    assert need.reserved_bytes == need.total_bytes


def test_sixteen_bit_chips_hold_a_copy_of_the_weights() -> None:
    need = stage_memory(CONFIG, LENGTH, "bf16", (2, 3), num_in_flight=1, micro_batch_size=1)
    assert need.state_bytes == 18 * layer_counts(CONFIG, 2, LENGTH, "bf16").parameters


def test_recompute_keeps_inputs_and_one_layers_activations() -> None:
    block = layer_counts(CONFIG, 2, LENGTH, "fp32")
    need = stage_memory(
        CONFIG, LENGTH, "fp32", (2, 5), num_in_flight=4, micro_batch_size=2, layout=FULL
    )
    assert need.activation_bytes == 4 * 2 * (3 + 1) * block.output_bytes
    assert (
        need.transient_bytes
        == 2 * (block.workspace_bytes + block.activation_bytes) + block.fixed_bytes
    )


def test_a_tied_matrix_is_held_once() -> None:
    sizes = {group.name: group.num_parameters for group in parameter_groups(CONFIG)}
    everything = sum(sizes.values())
    assert held_parameters(CONFIG, 0, 6) == everything
    both = held_parameters(CONFIG, 0, 3) + held_parameters(CONFIG, 3, 6)
    assert both == everything + sizes["token embedding"]


@pytest.mark.parametrize("name", ["gpt2", "llama3-8b", "qwen3-0.6b"])
def test_all_parameters_are_held_in_one_way(name: str) -> None:
    config = PRESETS[name]
    held = held_in_stage(config, 0, config.num_layers)
    assert sum(held) == sum(group.num_parameters for group in parameter_groups(config))
    assert held.experts == 0
    assert held.whole < 0.01 * held.split


@given(
    st.integers(0, 5),
    st.integers(1, 6),
    st.sampled_from(["fp32", "bf16", "fp16"]),
    st.integers(1, 6),
    st.integers(1, 9),
    st.sampled_from(["none", "selective", "full"]),
)
def test_more_of_anything_never_needs_less(
    first: int, length: int, precision: Precision, kept: int, size: int, recompute: Recompute
) -> None:
    layers = (first, min(6, first + length))

    def need(kept: int, size: int) -> int:
        return total(
            layers,
            precision=precision,
            num_in_flight=kept,
            micro_batch_size=size,
            recompute=recompute,
        )

    assert need(kept, size) <= need(kept + 1, size)
    assert need(kept, size) <= need(kept, size + 1)


@given(
    st.sampled_from(sorted(STACKS)),
    st.sampled_from(["none", "optimizer", "full"]),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 2, 8]),
)
def test_more_chips_never_need_more_each(
    name: str, sharding: Sharding, tensor: int, data: int
) -> None:
    def need(tensor: int, data: int) -> int:
        layout = Layout(tensor=tensor, data=data, sharding=sharding)
        memory = whole(PRESETS["gpt2"], layout, STACKS[name], samples=16, length=256)
        return memory.allocated_bytes - memory.buffer_bytes

    assert need(2 * tensor, data) <= need(tensor, data)
    if data > 1:
        assert need(tensor, 2 * data) <= need(tensor, data)


def test_recompute_needs_less_for_several_layers_in_flight() -> None:
    assert total((1, 5), num_in_flight=4, micro_batch_size=4, recompute="full") < total(
        (1, 5), num_in_flight=4, micro_batch_size=4
    )


GPT3 = ModelConfig(layers=96, width=12288, heads=96, vocab_size=51200, context=2048)


@pytest.mark.parametrize(
    ("tensor", "sequence_parallel", "recompute", "expected"),
    [
        (1, False, "none", 34 + 5 * 96 * 2048 / 12288),
        (8, False, "none", 10 + 24 / 8 + 5 * 96 * 2048 / 12288 / 8),
        (8, True, "none", (34 + 5 * 96 * 2048 / 12288) / 8),
        (8, False, "selective", 10 + 24 / 8),
        (8, True, "selective", 34 / 8),
        (8, False, "full", 2),
        (8, True, "full", 2 / 8),
    ],
)
def test_a_gpt_block_keeps_what_korthikanti_et_al_count(
    tensor: int, sequence_parallel: bool, recompute: Recompute, expected: float
) -> None:
    """Table 2 of arXiv 2205.05198, in units of s b h bytes; it leaves out the norms' statistics."""
    stack = dataclasses.replace(MEGATRON_2021, sequence_parallel=sequence_parallel)
    layout = Layout(tensor=tensor, recompute=recompute)
    memory = layer_memory(GPT3, 3, 2048, "fp16", layout, stack)
    assert memory.saved_bytes / (2048 * 12288) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("sharding", "per_parameter"), [("none", 18), ("optimizer", 6 + 12 / 8), ("full", 16 / 8)]
)
def test_sharding_divides_what_zero_says(sharding: Sharding, per_parameter: float) -> None:
    """Stages 0, 1 and 3 of arXiv 1910.02054, with fp32 gradients."""
    config = PRESETS["gpt2"]
    need = whole(config, Layout(data=8, sharding=sharding), TORCHTITAN)
    parameters = held_parameters(config, 0, config.num_layers)
    assert need.state_bytes == pytest.approx(per_parameter * parameters, rel=1e-6)


def test_zero_2_shares_gradients_too() -> None:
    config = PRESETS["gpt2"]
    need = whole(config, Layout(data=8, sharding="optimizer"), DEEPSPEED)
    parameters = held_parameters(config, 0, config.num_layers)
    assert need.state_bytes == pytest.approx((2 + 16 / 8) * parameters, rel=1e-6)


def test_gradients_that_come_late_do_not_meet_the_activations() -> None:
    config = PRESETS["llama3-8b"]
    layout = Layout(data=8, sharding="full")
    later = stage_memory(
        config, 8192, "bf16", (0, config.num_layers), num_in_flight=1, micro_batch_size=8,
        layout=layout, stack=TORCHTITAN, accumulates=False,
    )  # fmt: skip
    always = whole(config, layout, TORCHTITAN, length=8192)
    gradients = 4 * held_parameters(config, 0, config.num_layers) / 8
    assert always.allocated_bytes - later.allocated_bytes == pytest.approx(gradients, rel=1e-6)


def test_experts_are_spread_and_sharded_among_those_that_have_the_same() -> None:
    mixture = MixtureOfExperts(experts=8, experts_per_token=2, expert_width=128)
    config = dataclasses.replace(CONFIG, mixture=mixture, bias=False)
    held = held_in_stage(config, 1, 5)
    assert held.experts == 4 * 8 * 2 * 64 * 128
    layout = Layout(tensor=2, data=8, expert=4, sharding="optimizer")
    assert held.experts_on_chip(layout) == held.experts / 8
    assert held.share(layout) == pytest.approx(
        held.dense_on_chip(layout) / 8 + held.experts / 8 / 2
    )


def test_chips_with_several_stages_have_one_context_and_one_moment() -> None:
    config = PRESETS["gpt2"]
    parts = [
        stage_memory(
            config, 1024, "fp16", layers, num_in_flight=3, micro_batch_size=1,
            layout=Layout(tensor=2), stack=MEGATRON,
        )
        for layers in ((0, 4), (8, 12))
    ]  # fmt: skip
    both = device_memory(parts)
    assert both.state_bytes == parts[0].state_bytes + parts[1].state_bytes
    assert both.activation_bytes == parts[0].activation_bytes + parts[1].activation_bytes
    assert both.transient_bytes == max(part.transient_bytes for part in parts)
    assert both.context_bytes == parts[0].context_bytes > 0


def test_sequence_parallelism_is_always_beside_tensor_parallelism() -> None:
    """All that a tensor group of motley's keeps for the backward pass is shared out."""
    alone, shared = (whole(PRESETS["gpt2"], Layout(tensor=t), MOTLEY) for t in (1, 4))
    assert shared.activation_bytes == pytest.approx(alone.activation_bytes / 4, rel=1e-6)


def test_only_frameworks_on_nominal_memory_are_charged_a_context() -> None:
    layout = Layout(tensor=2, data=4)
    assert whole(PRESETS["gpt2"], layout, MOTLEY).context_bytes == 0
    alone = whole(PRESETS["gpt2"], Layout(), MEGATRON).context_bytes
    assert 0 < alone < whole(PRESETS["gpt2"], layout, MEGATRON).context_bytes


def test_a_group_that_a_library_joins_is_charged_its_buffers() -> None:
    """Those that the other stacks are charged (NVLink 4: 36 channels, three algorithms)."""
    recipe = make_recipe(width=256)
    group = {"kind": "h100-sxm-80g", "count": 2}
    quoted, cpus = (
        parse_cluster({"group": [{**group, **more}]}) for more in ({}, {"device": "cpu"})
    )
    stage = Stage(chips=("h100-sxm-80g.0",), first_layer=0, last_layer=8, precision="bf16")
    both = dataclasses.replace(stage, chips=("h100-sxm-80g.0", "h100-sxm-80g.1"), data=2)

    def needs(stage: Stage, cluster: Cluster) -> int:
        replica = Replica(stages=(stage,), num_samples=16, micro_batch_size=2)
        return stage_needs(replica, recipe, cluster)[0]

    buffers = 2 * 36 * 3 * CHANNEL_BYTES
    assert needs(both, quoted) - needs(both, cpus) == buffers
    assert needs(stage, quoted) == needs(stage, cpus)
    plan = search(recipe, quoted, space=ANY)
    for placement in plan.placements():
        (need,) = stage_needs(placement.replica, recipe, quoted)
        assert placement.stage.memory_bytes == need


def test_a_root_unit_that_stays_gathered_counts() -> None:
    config, layout = PRESETS["gpt2"], Layout(data=8, sharding="full")
    matrix = config.vocabulary * config.width
    assert whole(config, layout, LLM_FOUNDRY).buffer_bytes == 2 * matrix
