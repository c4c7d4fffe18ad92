"""What a stage's memory is made of, and what changes it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley.model.config import ModelConfig
from motley.model.counts import layer_counts, parameter_groups
from motley.plan.memory import MARGIN, held_parameters, stage_memory
from motley.units import Precision

CONFIG = ModelConfig(layers=4, width=64, heads=4, vocab_size=1000, context=64)
LENGTH = 64


def total(
    layers: tuple[int, int],
    *,
    precision: Precision = "fp32",
    num_in_flight: int = 1,
    micro_batch_size: int = 1,
    recompute: bool = False,
) -> int:
    return stage_memory(
        CONFIG,
        LENGTH,
        precision,
        layers,
        num_in_flight=num_in_flight,
        micro_batch_size=micro_batch_size,
        recompute=recompute,
    ).total_bytes


def test_the_parts_of_a_middle_stage_in_fp32() -> None:
    block = layer_counts(CONFIG, 2, LENGTH, "fp32")
    need = stage_memory(
        CONFIG, LENGTH, "fp32", (2, 4), num_in_flight=3, micro_batch_size=2, recompute=False
    )
    boundary = 2 * LENGTH * 64 * 4
    assert need.state_bytes == 16 * 2 * block.parameters
    assert need.activation_bytes == 3 * 2 * (2 * block.activation_bytes + block.output_bytes)
    assert need.transient_bytes == 2 * block.workspace_bytes + block.fixed_bytes
    assert need.buffer_bytes == 2 * 2 * 2 * boundary + 4 * 2 * block.parameters
    parts = need.state_bytes + need.activation_bytes + need.transient_bytes + need.buffer_bytes
    assert need.total_bytes == pytest.approx(parts * (1 + MARGIN), abs=1)


def test_sixteen_bit_chips_hold_a_copy_of_the_weights() -> None:
    need = stage_memory(
        CONFIG, LENGTH, "bf16", (2, 3), num_in_flight=1, micro_batch_size=1, recompute=False
    )
    assert need.state_bytes == 18 * layer_counts(CONFIG, 2, LENGTH, "bf16").parameters


def test_recompute_keeps_inputs_and_one_layers_activations() -> None:
    block = layer_counts(CONFIG, 2, LENGTH, "fp32")
    need = stage_memory(
        CONFIG, LENGTH, "fp32", (2, 5), num_in_flight=4, micro_batch_size=2, recompute=True
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


@given(
    st.integers(0, 5),
    st.integers(1, 6),
    st.sampled_from(["fp32", "bf16", "fp16"]),
    st.integers(1, 6),
    st.integers(1, 9),
    st.booleans(),
)
def test_more_of_anything_never_needs_less(
    first: int, length: int, precision: Precision, kept: int, size: int, recompute: bool
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


def test_recompute_needs_less_for_several_layers_in_flight() -> None:
    assert total((1, 5), num_in_flight=4, micro_batch_size=4, recompute=True) < total(
        (1, 5), num_in_flight=4, micro_batch_size=4
    )
