"""The memory of published trainings: what ran fits, what ran out of memory does not."""

from __future__ import annotations

import dataclasses

import pytest

from motley.plan.published.case import Case
from motley.plan.published.memory import case_fits, case_memory
from motley.plan.published.rows import PublishedRow
from motley.plan.published.settle import case_of

BLOOM = PublishedRow(
    line=2,
    source="bigscience-workshop/bigscience train/tr11-176B-ml/chronicles-prequel.md",
    model="GPT-181B",
    params_b=181,
    n_layers=72,
    d_model=14336,
    n_heads=64,
    seq_len=2048,
    vocab=250_880,
    global_batch=2048,
    micro_batch=4,
    chip="A100-80GB-SXM",
    n_chips=384,
    interconnect="NVLink, 8 GPU/node, 4x Omni-Path links",
    tp=8,
    pp=12,
    dp=4,
    zero_or_fsdp="ZeRO-1",
    precision="fp16",
    recompute="full",
)


def case(**changes: object) -> Case:
    return case_of(dataclasses.replace(BLOOM, **changes))


@pytest.mark.parametrize(
    ("changes", "published_gb"),
    [
        ({}, 49),
        ({"micro_batch": 1}, 29),
        ({"micro_batch": 8}, 69),
        ({"pp": 6, "dp": 8}, 56),
        ({"tp": 4, "pp": 12, "dp": 8}, 60),
    ],
)
def test_published_peaks(changes: dict[str, object], published_gb: float) -> None:
    """Lines of BLOOM's chronicles."""
    memory = case_memory(case(**changes))
    assert case_fits(case(**changes), memory)
    fullest = max(memory, key=lambda part: part.total_bytes)
    seen = fullest.reserved_bytes + fullest.context_bytes
    assert seen / 1e9 == pytest.approx(published_gb, rel=0.1)


@pytest.mark.parametrize("changes", [{"pp": 1, "dp": 48}, {"tp": 2, "pp": 6, "dp": 32}])
def test_stated_out_of_memory(changes: dict[str, object]) -> None:
    crowded = case(micro_batch=1, **changes)
    assert not case_fits(crowded, case_memory(crowded))


def test_an_interleaved_schedule_holds_virtual_stages_and_keeps_more() -> None:
    plain, interleaved = case(), case(notes="interleaved")
    assert interleaved.virtual == 2
    kept = [
        sum(part.activation_bytes for part in case_memory(each)) for each in (plain, interleaved)
    ]
    states = [sum(part.state_bytes for part in case_memory(each)) for each in (plain, interleaved)]
    assert kept[1] > kept[0]
    assert states[1] == pytest.approx(states[0], rel=0.01)


def test_chips_that_share_sequences_share_parameters() -> None:
    shared = PublishedRow(
        line=2, source="pytorch/torchtitan", model="Llama3.1-8B", seq_len=65536, global_batch=4,
        micro_batch=1, chip="H100-80GB", n_chips=8, tp=1, pp=1, dp=4, zero_or_fsdp="FSDP2",
        precision="bf16", recompute="full", notes="cp=2; compile",
    )  # fmt: skip
    alone = dataclasses.replace(shared, seq_len=32768, global_batch=8, dp=8, notes="cp=1; compile")
    (two,), (one,) = case_memory(case_of(shared)), case_memory(case_of(alone))
    assert two.state_bytes == one.state_bytes
    assert two.total_bytes == pytest.approx(one.total_bytes, rel=1e-6)
