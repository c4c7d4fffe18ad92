"""What published rows leave open, and how it is settled; degrees and dies told in words."""

from __future__ import annotations

import dataclasses

import pytest

from motley.model.counts import model_counts
from motley.plan.published.chips import named_chips
from motley.plan.published.memory import case_fits, case_memory
from motley.plan.published.model import named_shape
from motley.plan.published.network import network_of
from motley.plan.published.predict import predict
from motley.plan.published.rows import PublishedRow
from motley.plan.published.settle import case_of
from motley.plan.published.shapes import known_shapes
from motley.plan.published.words import degree_noted

# NVIDIA NeMo user guide 24.12, performance summary: Llama 2 70B in fp8, 128 samples on 64 H100.
NEMO = {
    "source": "docs.nvidia.com/nemo-framework/user-guide/24.12",
    "model": "Llama 2 70B",
    "seq_len": 4096,
    "global_batch": 128,
    "micro_batch": 1,
    "chip": "H100-80GB",
    "n_chips": 64,
    "tp": 4,
    "pp": 4,
    "dp": 4,
    "precision": "fp8",
    "notes": "CP=1 VP=20",
}


def row(**changes: object) -> PublishedRow:
    return PublishedRow(line=2, **{**NEMO, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("notes", "degree"),
    [
        ("CP=2; VP=5", 2),
        ("cp 4", 4),
        ("CP2", 2),
        ("context parallel size 8", 8),
        ("context-parallelism: 2", 2),
        ("CP=-", None),
        ("CPU offload", None),
        ("dcp=4", None),
    ],
)
def test_degrees_are_read_in_the_usual_spellings(notes: str, degree: int | None) -> None:
    assert degree_noted(notes, "cp", "context parallel") == degree


def test_virtual_stages_are_at_most_the_blocks_there_are() -> None:
    assert case_of(row()).virtual == 20
    assert case_of(row(notes="VP=64")).virtual == 80 // 4
    assert case_of(row(notes="")).virtual == 1
    assert case_of(row(pp=1, dp=16)).virtual == 1


def test_chips_that_share_sequences_count() -> None:
    shared = case_of(row(notes="CP=2", dp=2))
    assert (shared.context, shared.num_replicas * shared.layout.data) == (2, 2)


def test_state_that_does_not_fit_is_shared_out_where_the_row_is_silent() -> None:
    case = case_of(row())
    assert (case.layout.sharding, case.layout.data, case.num_replicas) == ("optimizer", 4, 1)
    assert any(told.startswith("sharding not given: optimizer") for told in case.assumed)
    assert case_fits(case, case_memory(case))


def test_a_row_that_says_it_is_left_alone() -> None:
    case = case_of(row(zero_or_fsdp="none", recompute="none"))
    assert case.layout.sharding == "none"
    assert case.memory_recompute is None
    assert not case_fits(case, case_memory(case))


def test_what_fits_is_left_alone() -> None:
    case = case_of(row(n_chips=256, tp=8, pp=8, notes=""))
    assert (case.layout.sharding, case.memory_recompute) == ("none", None)


def test_recompute_that_nobody_told_costs_memory_and_no_time() -> None:
    open_, none = row(micro_batch=4, dp=4), row(micro_batch=4, dp=4, recompute="none")
    case, plain = case_of(open_), case_of(none)
    assert case.memory_recompute == "full"
    assert case_fits(case, case_memory(case))
    assert not case_fits(plain, case_memory(plain))
    assert predict(case).pipeline_s == pytest.approx(predict(plain).pipeline_s)
    assert any("for the memory, none for the time" in told for told in case.assumed)


def test_a_micro_batch_that_is_not_given_shrinks_until_it_fits() -> None:
    fields = {"model": "Llama 2 7B", "tp": 1, "pp": 1, "dp": 8, "n_chips": 8, "notes": ""}
    case = case_of(row(**fields, micro_batch=None, zero_or_fsdp="ZeRO-1", recompute="none"))
    assert case.micro_batch * case.num_micro_batches * 8 == 128
    assert case_fits(case, case_memory(case))
    larger = dataclasses.replace(case, micro_batch=2 * case.micro_batch)
    assert not case_fits(larger, case_memory(larger))


def test_experts_that_are_not_placed_are_spread() -> None:
    fields = {"model": "mixtral-8x7b", "tp": 1, "pp": 1, "dp": 64}
    assert case_of(row(**fields, notes="")).layout.expert == 8
    assert case_of(row(**fields, notes="EP=4")).layout.expert == 4


def test_where_the_host_has_a_part_nothing_is_said_of_memory() -> None:
    case = case_of(row(notes="parameters offloaded to the host"))
    assert case.offloads
    assert case_fits(case, case_memory(case)) is None


def test_dies_that_a_table_counts_are_half_cards() -> None:
    lumi = {
        "source": "spyysalo/lumi-llm-scaling",
        "chip": "amd-mi250x-128g",
        "precision": "bf16",
        "recompute": "full",
    }
    card, die = case_of(row(**lumi)), case_of(row(**lumi, notes="n_chips counts GCDs"))
    assert die.chips[0].flops_per_s["bf16"] == card.chips[0].flops_per_s["bf16"] / 2
    assert die.chips[0].memory_bytes * 2 == card.chips[0].memory_bytes
    assert named_chips("MI250X GCD")[0].share == 0.5
    assert named_chips("MI300X GCD")[0].share == 1.0


def test_nemo_comes_near_what_it_published() -> None:
    """1,728 tokens/s for each of 64 chips (NeMo 24.12)."""
    assert predict(case_of(row())).step_s == pytest.approx(128 * 4096 / (1728 * 64), rel=0.2)


def test_a_rack_is_one_domain() -> None:
    chip = named_chips("GB200")[0].catalog
    sizes = [network_of("", chip, number).per_node for number in (8, 64, 72, 128, 144)]
    assert sizes == [8, 64, 72, 64, 72]


def test_shapes_have_the_parameters_of_their_names() -> None:
    for name, config in known_shapes().items():
        assert config.planned_only, name
        size = name.removesuffix("-a14b").rpartition("-")[2]
        if size.endswith("b") and size[:-1].isdigit():
            billions = model_counts(config, 1).parameters / 1e9
            assert billions == pytest.approx(float(size[:-1]), rel=0.26), name


@pytest.mark.parametrize(
    ("written", "width", "layers"),
    [("LLaMA 7B", 4096, 32), ("Qwen2-72B", 8192, 80), ("BERT-Large", 1024, 24)],
)
def test_names_of_other_families_find_their_shape(written: str, width: int, layers: int) -> None:
    shape = named_shape(written)
    assert shape is not None
    assert (shape.width, shape.layers) == (width, layers)
