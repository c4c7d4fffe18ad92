"""Seconds of kernels, collectives and layers: exact where they must be, sane everywhere else."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley.chips.catalog import catalog, look_up
from motley.chips.chip import Chip, Link
from motley.chips.constants import CONSTANTS
from motley.chips.efficiency import Efficiency, efficiency_of, power_share, reaches
from motley.cluster import LOOPBACK, Spread
from motley.model.config import MixtureOfExperts, ModelConfig
from motley.model.presets import PRESETS
from motley.plan.layout import Layout, Recompute
from motley.plan.stack import MEGATRON, MEGATRON_2021, MOTLEY, STACKS, TORCHTITAN
from motley.plan.timing.collectives import (
    all_gather_seconds,
    all_reduce_seconds,
    all_to_all_seconds,
    member_spread,
    reduce_scatter_seconds,
    tensor_spread,
)
from motley.plan.timing.cost import counts_of, layer_time, optimizer_seconds
from motley.plan.timing.kernels import engine_of, matmul_seconds
from motley.plan.timing.sync import all_reduce_seconds as ring_seconds
from motley.plan.timing.sync import group_exchange_seconds
from motley.plan.timing.work import Matmul, layer_work

NVLINK = Link(kind="NVLink 3", bandwidth_bytes_per_s=300e9, latency_s=3e-6, source="quoted")
NETWORK = Link(kind="RoCE", bandwidth_bytes_per_s=200e9, latency_s=8e-6, source="quoted")
FLAT = Link(bandwidth_bytes_per_s=1e8, latency_s=2e-4, emulated=True, source="emulated")
LLAMA = PRESETS["llama3-8b"]
SMALL = ModelConfig(layers=2, width=64, heads=4, vocab_size=256, context=64)


def quoted(kind: str, **changes: object) -> Chip:
    """A catalog chip as the planner has it."""
    entry = look_up(kind)
    fields: dict[str, object] = {
        "name": kind,
        "kind": entry.id,
        "precision": "bf16",
        "flops_per_s": {"bf16": (entry.bf16_tflops or 0) * 1e12, "fp8": 2e15},
        "efficiency": efficiency_of(entry),
        "memory_bytes": 80 * 10**9,
        "memory_bandwidth_bytes_per_s": (entry.mem_bandwidth_gbps or 0) * 1e9,
        "source": "quoted",
    }
    return Chip(**{**fields, **changes})  # type: ignore[arg-type]


def emulated(rate: float = 1e9) -> Chip:
    return Chip(
        name="e", kind="e", emulated=True, flops_per_s={"fp32": rate}, memory_bytes=10**9,
        memory_bandwidth_bytes_per_s=1e10, source="emulated",
    )  # fmt: skip


def spread(num_chips: int, per_node: int = 8) -> Spread:
    network = NETWORK if num_chips > per_node else None
    return Spread(num_chips, min(per_node, num_chips), NVLINK, network)


ALONE = Layout()
A100 = quoted("a100-sxm-80g")
H100 = quoted("h100-sxm-80g")


# Chips


def test_every_row_of_reach_is_a_chip_of_the_catalog_with_an_origin_and_a_share_below_peak() -> (
    None
):
    for id, reach in reaches().items():
        assert id in catalog(), id
        assert reach.source.startswith("["), id
        if reach.matmul_tflops is not None:
            share = efficiency_of(catalog()[id]).matmul_share
            assert 0.3 < share < 1.1, (id, share)


def test_a_chip_of_too_little_power_cannot_hold_its_peak() -> None:
    assert power_share(look_up("t4")) < 0.7
    assert efficiency_of(look_up("t4")).matmul_share < 0.5
    assert power_share(look_up("v100-sxm2-16g")) == 1.0
    assert power_share(dataclasses.replace(look_up("t4"), tdp_w=None)) == 1.0


def test_a_chip_without_a_measured_rate_gets_what_its_vendor_reaches() -> None:
    mi250 = efficiency_of(look_up("mi250x-128g"))
    measured = [efficiency_of(look_up(id)).matmul_share for id in ("mi300x-192g", "mi325x-256g")]
    assert not mi250.measured
    assert mi250.matmul_share == pytest.approx(sum(measured) / 2)


# Kernels


@given(
    st.integers(1, 40).map(lambda n: 128 * n),
    st.integers(1, 40).map(lambda n: 128 * n),
    st.integers(1, 40).map(lambda n: 128 * n),
)
def test_a_product_is_never_faster_than_its_engine_and_its_memory(m: int, k: int, n: int) -> None:
    engine = engine_of(A100, MOTLEY)
    seconds = matmul_seconds(engine, Matmul(m, k, n))
    assert seconds >= 2.0 * m * k * n / engine.linear_flops_per_s
    assert seconds >= 2 * (m * k + k * n) / engine.bandwidth_bytes_per_s
    assert matmul_seconds(engine, Matmul(2 * m, k, n)) >= seconds
    assert matmul_seconds(engine, Matmul(m, 2 * k, n)) >= seconds


def test_large_products_reach_the_rate_and_small_ones_do_not() -> None:
    engine = engine_of(A100, MOTLEY)

    def share(size: int) -> float:
        ideal = 2.0 * size**3 / engine.linear_flops_per_s
        return ideal / matmul_seconds(engine, Matmul(size, size, size))

    assert share(16384) > 0.95
    assert share(512) < 0.4
    assert share(16384) > share(2048) > share(512)


def test_misaligned_widths_are_slow_and_ragged_ones_somewhat() -> None:
    engine = engine_of(A100, MOTLEY)
    full, ragged, odd = (matmul_seconds(engine, Matmul(4096, k, 4096)) for k in (1792, 1800, 1801))
    assert full < ragged < odd
    assert odd > 3 * full


def test_fp8_speeds_up_products_by_parameters_alone() -> None:
    fp8 = quoted("h100-sxm-80g", precision="fp8")
    product = Matmul(8192, 4096, 4096)
    faster = matmul_seconds(engine_of(H100, MOTLEY), product) / matmul_seconds(
        engine_of(fp8, MOTLEY), product
    )
    assert 1.2 < faster < 2.0
    attention = product._replace(linear=False)
    assert matmul_seconds(engine_of(fp8, MOTLEY), attention) == pytest.approx(
        matmul_seconds(engine_of(H100, MOTLEY), attention)
    )


# The work of a layer


@pytest.mark.parametrize("name", ["llama3-8b", "gpt2", "qwen3-0.6b"])
def test_the_products_of_a_layer_are_those_that_are_counted(name: str) -> None:
    config = PRESETS[name]
    for layer in (1, config.num_layers - 1):
        work = layer_work(config, layer, 1024, 2, ALONE, MOTLEY, 2)
        flops = sum(2 * m.rows * m.inner * m.columns * m.copies for m in work.forward.matmuls)
        counted = 2 * counts_of(config, layer, 1024, "bf16").forward_flops
        assert flops + work.forward.flash_flops == pytest.approx(counted)
        weight = sum(2 * m.rows * m.inner * m.columns * m.copies for m in work.weight.matmuls)
        assert weight == pytest.approx(flops)


@pytest.mark.parametrize("tensor", [2, 4, 8])
def test_tensor_parallelism_shares_out_products_and_parameters(tensor: int) -> None:
    whole = layer_work(LLAMA, 1, 1024, 2, ALONE, MEGATRON, 2)
    part = layer_work(LLAMA, 1, 1024, 2, Layout(tensor=tensor), MEGATRON, 2)

    def flops(work: object) -> float:
        return sum(m.rows * m.inner * m.columns * m.copies for m in work.forward.matmuls)  # type: ignore[attr-defined]

    assert flops(part) == pytest.approx(flops(whole) / tensor)
    assert part.parameters == pytest.approx(whole.parameters / tensor)
    assert part.forward.flash_flops == pytest.approx(whole.forward.flash_flops / tensor)


@pytest.mark.parametrize("expert", [1, 4, 8])
def test_spreading_experts_keeps_the_work_of_each_chip(expert: int) -> None:
    moe = dataclasses.replace(
        SMALL, mixture=MixtureOfExperts(experts=8, experts_per_token=2, expert_width=128)
    )
    alone = layer_work(moe, 1, 64, 4, Layout(data=8), MOTLEY, 2)
    spread_out = layer_work(moe, 1, 64, 4, Layout(data=8, expert=expert), MOTLEY, 2)
    total = [
        sum(m.rows * m.inner * m.columns * m.copies for m in work.forward.matmuls)
        for work in (alone, spread_out)
    ]
    assert total[0] == pytest.approx(total[1])
    assert spread_out.parameters <= alone.parameters


def test_unfused_attention_moves_scores_and_computes_both_triangles() -> None:
    flash = layer_work(LLAMA, 1, 4096, 1, ALONE, MEGATRON, 2)
    unfused = layer_work(LLAMA, 1, 4096, 1, ALONE, MEGATRON_2021, 2)
    scores = [m for m in unfused.core.matmuls if not m.linear]
    twice = sum(2 * m.rows * m.inner * m.columns * m.copies for m in scores)
    assert twice == pytest.approx(2 * flash.forward.flash_flops, rel=1e-3)
    assert unfused.core.moved_bytes > 32 * 4096**2 * 2


# Layers


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_an_emulated_chip_is_charged_counted_flops_exactly(recompute: Recompute) -> None:
    chip, layout = emulated(), Layout(recompute=recompute)
    counts = counts_of(SMALL, 1, 64, "fp32")
    time = layer_time(chip, SMALL, 1, 64, 3, layout, Spread(1, 1, FLAT, None), MOTLEY)
    again = counts.forward_flops if recompute == "full" else 0.0
    assert time.forward_s == 3 * counts.forward_flops / 1e9
    assert time.backward_s == 3 * (counts.backward_flops + again) / 1e9
    assert time.weight_s == 3 * counts.backward_flops / 2 / 1e9


@pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS.keys())
def test_recompute_costs_more_the_more_it_repeats(stack: object) -> None:
    kinds: tuple[Recompute, ...] = ("none", "selective", "full")
    none, some, full = (
        layer_time(A100, LLAMA, 1, 4096, 2, Layout(recompute=kind), spread(1), stack)  # type: ignore[arg-type]
        for kind in kinds
    )
    assert none.forward_s == some.forward_s == full.forward_s
    assert none.backward_s < some.backward_s < full.backward_s <= none.backward_s + none.forward_s
    assert 0 < none.weight_s < none.backward_s


@given(st.integers(1, 16), st.sampled_from([512, 2048, 8192]))
def test_more_samples_take_longer_but_less_each(samples: int, length: int) -> None:
    one, more = (
        layer_time(H100, LLAMA, 1, length, count, ALONE, spread(1), TORCHTITAN).forward_s
        for count in (samples, samples + 1)
    )
    assert one < more <= one * (samples + 1) / samples * 1.02


def test_the_members_of_a_group_share_the_samples() -> None:
    alone = layer_time(A100, LLAMA, 1, 2048, 2, ALONE, spread(1), MOTLEY)
    group = layer_time(A100, LLAMA, 1, 2048, 8, Layout(data=4), spread(4), MOTLEY)
    assert group == alone


def test_sharded_members_pay_for_gathers_and_slow_networks_cost_more() -> None:
    plain = layer_time(A100, LLAMA, 1, 2048, 16, Layout(data=16), spread(16), MOTLEY)
    sharded = Layout(data=16, sharding="full")
    fast = layer_time(A100, LLAMA, 1, 2048, 16, sharded, spread(16), MOTLEY)
    slow_network = dataclasses.replace(NETWORK, bandwidth_bytes_per_s=1e9)
    slow = layer_time(
        A100, LLAMA, 1, 2048, 16, sharded, spread(16)._replace(network=slow_network), MOTLEY
    )
    assert plain.forward_s < fast.forward_s < slow.forward_s
    assert plain.backward_s < fast.backward_s < slow.backward_s


def test_the_optimizer_moves_its_bytes_once_and_shards_share_them() -> None:
    chip = emulated()
    whole = optimizer_seconds(chip, 10**6)
    assert whole == 30 * 10**6 / 1e10
    shared = optimizer_seconds(chip, 10**6, Layout(data=4, sharding="optimizer"), MOTLEY)
    assert shared == pytest.approx(whole / 4)
    assert optimizer_seconds(chip, 10**6, Layout(data=4), MOTLEY) == whole


# Collectives


@given(st.integers(2, 12), st.integers(1, 10**7))
def test_on_one_flat_level_an_all_reduce_is_the_ring_that_paces_the_trainer(
    size: int, num_parameters: int
) -> None:
    flat = Spread(size, size, FLAT, None)
    ring = ring_seconds(num_parameters, range(size), lambda first, second: FLAT)
    assert all_reduce_seconds(4.0 * num_parameters, flat) == pytest.approx(ring)


def test_collectives_of_one_chip_are_free_and_halves_make_the_whole() -> None:
    for collective in (all_reduce_seconds, all_gather_seconds, all_to_all_seconds):
        assert collective(1e9, spread(1)) == 0.0
    both = reduce_scatter_seconds(1e8, spread(16)) + all_gather_seconds(1e8, spread(16))
    assert all_reduce_seconds(1e8, spread(16)) == pytest.approx(both)


@pytest.mark.parametrize("collective", [all_reduce_seconds, all_gather_seconds, all_to_all_seconds])
def test_collectives_grow_with_bytes_nodes_and_groups_beside_them(collective) -> None:  # type: ignore[no-untyped-def]
    times = [collective(num_bytes, spread(32)) for num_bytes in (1e3, 1e6, 1e9)]
    assert times == sorted(times)
    assert times[0] > CONSTANTS.collective_s, "a start is paid for any size"
    assert collective(1e9, spread(64)) > collective(1e9, spread(8))
    assert collective(1e9, spread(32), groups=4) > collective(1e9, spread(32))


def test_large_messages_come_near_the_reachable_bandwidth_and_small_ones_do_not() -> None:
    def share(num_bytes: float) -> float:
        return 7 / 8 * num_bytes / all_gather_seconds(num_bytes, spread(8)) / 300e9

    assert share(1e10) == pytest.approx(CONSTANTS.link_share, rel=0.02)
    assert share(1e6) < 0.1


def test_a_measured_link_gives_what_it_says() -> None:
    measured = dataclasses.replace(NVLINK, source="measured", latency_s=0.0)
    assert all_gather_seconds(8e9, Spread(8, 8, measured, None)) == pytest.approx(7e9 / 300e9)


def test_an_emulated_link_gives_what_it_says_wherever_its_figure_is_from() -> None:
    loopback = dataclasses.replace(LOOPBACK, emulated=True)
    assert ring_seconds(1000, (0, 1), lambda first, second: loopback) == pytest.approx(
        4000 / LOOPBACK.bandwidth_bytes_per_s + 2 * LOOPBACK.latency_s
    )


def test_parts_of_a_group() -> None:
    whole = spread(32)
    assert tensor_spread(whole, 4)[:2] == (4, 4)
    assert member_spread(whole, 4, 8)[:2] == (8, 2)
    assert member_spread(whole, 16, 2)[:2] == (2, 1)


def test_gradients_of_a_group_are_exchanged_once_or_layer_by_layer() -> None:
    assert group_exchange_seconds(10**9, ALONE, spread(1), MOTLEY) == 0.0
    assert group_exchange_seconds(10**9, Layout(data=8, sharding="full"), spread(8), MOTLEY) == 0.0
    plain, sharded = (
        group_exchange_seconds(10**9, Layout(data=8, sharding=kind), spread(8), MOTLEY)
        for kind in ("none", "optimizer")
    )
    assert 0 < sharded < plain, "parameters that are gathered are smaller than fp32 gradients"


def test_efficiencies_of_all_catalog_chips_can_be_computed_with() -> None:
    for chip, stack in itertools.product(catalog().values(), (MOTLEY, MEGATRON_2021)):
        found = efficiency_of(chip)
        assert isinstance(found, Efficiency)
        if chip.bf16_tflops and chip.mem_bandwidth_gbps:
            time = layer_time(quoted(chip.id), LLAMA, 1, 1024, 1, ALONE, spread(1), stack)
            assert 0 < time.forward_s < time.backward_s
