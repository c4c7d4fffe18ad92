"""The predicted step: by hand, as spans, and against what must hold for any plan."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley.chips.chip import Link
from motley.cluster import Cluster
from motley.model.counts import layer_counts
from motley.plan.memory.held import held_parameters
from motley.plan.search.build import build_plan, even_data_parallel, even_pipeline
from motley.plan.search.choices import ReplicaChoice, Split, StageChoice
from motley.plan.simulate import simulate
from motley.plan.stack import MOTLEY
from motley.plan.timing.cost import (
    backward_flops,
    boundary_bytes,
    forward_flops,
    layer_cost,
)
from motley.plan.timing.sync import all_reduce_seconds, gradient_buckets
from motley.recipe import Recipe
from plan_cases import ETHERNET, make_chip, make_cluster, make_recipe


def stage_flops(recipe: Recipe, first: int, last: int) -> tuple[float, float]:
    counts = [
        layer_counts(recipe.model, layer, recipe.batch.sequence_length, "fp32")
        for layer in range(first, last)
    ]
    return sum(c.forward_flops for c in counts), sum(c.backward_flops for c in counts)


def test_one_chip_alone_computes_without_a_pause() -> None:
    recipe, cluster = make_recipe(), make_cluster([1e9])
    plan = build_plan((ReplicaChoice((StageChoice(0, 0, 8),), 3, 16),), recipe, cluster)
    held = held_parameters(recipe.model, 0, 8)
    expected = 16 * sum(stage_flops(recipe, 0, 8)) / 1e9
    expected += MOTLEY.optimizer_bytes * held / 1e12
    simulation = simulate(plan, recipe, cluster)
    assert plan.step_s == simulation.step_s == pytest.approx(expected)
    assert plan.tokens_per_s == pytest.approx(16 * 64 / expected)
    assert simulation.busy_share[0] == pytest.approx(1.0)
    assert simulation.wait_share[0] == pytest.approx(0.0, abs=1e-9)


def test_directions_are_computing_and_no_exchange() -> None:
    recipe, cluster = make_recipe(), make_cluster([1e9])
    muon = dataclasses.replace(recipe.optimizer, kind="muon")
    recipe = dataclasses.replace(recipe, optimizer=muon)
    plan = build_plan((ReplicaChoice((StageChoice(0, 0, 8),), 3, 16),), recipe, cluster)
    simulation = simulate(plan, recipe, cluster)
    assert simulation.exposed_sync_s == pytest.approx(0.0, abs=1e-9)
    assert simulation.busy_share[0] == pytest.approx(1.0)
    assert simulation.wait_share[0] == pytest.approx(0.0, abs=1e-9)


def test_two_stages_and_one_micro_batch_by_hand() -> None:
    recipe = make_recipe(global_batch=2)
    recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, tied_head=False))
    cluster = make_cluster([1e9, 2e9], link=Link(bandwidth_bytes_per_s=1e6, latency_s=0.01))
    split = (ReplicaChoice((StageChoice(0, 0, 4), StageChoice(1, 4, 8)), 2, 2),)
    first, second = stage_flops(recipe, 0, 4), stage_flops(recipe, 4, 8)
    message = 2 * 64 * 64 * 4 / 1e6 + 0.01
    expected = MOTLEY.optimizer_bytes * held_parameters(recipe.model, 0, 4) / 1e12
    expected += 2 * sum(first) / 1e9 + 2 * sum(second) / 2e9 + 2 * message
    assert build_plan(split, recipe, cluster).step_s == pytest.approx(expected)


def test_two_replicas_end_with_what_the_backward_cannot_hide() -> None:
    recipe = make_recipe(global_batch=2)
    cluster = make_cluster([1e9, 1e9], link=Link(bandwidth_bytes_per_s=1e5, latency_s=0.01))
    plan = even_data_parallel(recipe, cluster)
    (bucket,) = gradient_buckets(plan, recipe.model)
    alone = even_data_parallel(make_recipe(global_batch=1), make_cluster([1e9])).step_s
    exchange = all_reduce_seconds(bucket.num_parameters, (0, 1), lambda a, b: cluster.links[0])
    assert plan.step_s == pytest.approx(alone + exchange)
    assert simulate(plan, recipe, cluster).exposed_sync_s == pytest.approx(exchange)


def test_buckets_that_are_ready_early_hide_behind_the_backward() -> None:
    recipe = make_recipe(layers=8, width=512, global_batch=4)
    cluster = make_cluster([1e11, 1e11], link=ETHERNET)
    plan = even_data_parallel(recipe, cluster)
    simulation = simulate(plan, recipe, cluster)
    buckets = gradient_buckets(plan, recipe.model)
    alone = [
        all_reduce_seconds(bucket.num_parameters, (0, 1), lambda a, b: ETHERNET)
        for bucket in buckets
    ]
    assert len(buckets) > 4
    assert alone[-1] <= simulation.exposed_sync_s < sum(alone) / 2
    spans = [span for span in simulation.spans if span.rank == 0 and span.kind == "sync"]
    assert [span.end_s - span.start_s for span in spans] == pytest.approx(alone)


def splits(num_layers: int, batch: int) -> st.SearchStrategy[Split]:
    """Two replicas over chips 0 to 3, cut anywhere, with any shares and micro-batches."""

    def build(cut: int, other: int, samples: int, sizes: tuple[int, int]) -> Split:
        def replica(chips: tuple[int, int], at: int, share: int, size: int) -> ReplicaChoice:
            stages = (StageChoice(chips[0], 0, at), StageChoice(chips[1], at, num_layers))
            return ReplicaChoice(stages, min(size, share), share)

        return (
            replica((0, 1), cut, samples, sizes[0]),
            replica((2, 3), other, batch - samples, sizes[1]),
        )

    cuts = st.integers(1, num_layers - 1)
    sizes = st.tuples(st.integers(1, 4), st.integers(1, 4))
    return st.builds(build, cuts, cuts, st.integers(1, batch - 1), sizes)


@settings(max_examples=60)
@given(splits(8, 12), st.sampled_from([1e5, 1e7, 1e9]))
def test_spans_are_whole_and_a_chip_does_one_thing_at_a_time(
    split: Split, bandwidth: float
) -> None:
    recipe = make_recipe(global_batch=12)
    link = Link(bandwidth_bytes_per_s=bandwidth, latency_s=1e-4)
    cluster = make_cluster([1e9, 2e9, 3e9, 1e9], link=link)
    simulation = simulate(build_plan(split, recipe, cluster), recipe, cluster)
    for rank in range(4):
        own = [span for span in simulation.spans if span.rank == rank]
        computing = [span for span in own if span.kind != "sync"]
        for before, after in pairwise(computing):
            assert before.end_s <= after.start_s + 1e-12
        kinds = [span.kind for span in own]
        replica = split[rank // 2]
        assert kinds.count("forward") == kinds.count("backward") == replica.num_micro_batches
        assert kinds.count("optimizer") == 1
        assert computing[0].kind == "optimizer"
        covered = sum(span.end_s - span.start_s for span in computing)
        assert covered <= simulation.step_s * (1 + 1e-9)
        assert max(span.end_s for span in own) == pytest.approx(simulation.step_s)


@settings(max_examples=40)
@given(splits(8, 12), st.floats(1.1, 8))
def test_a_step_scales_with_all_rates(split: Split, factor: float) -> None:
    recipe = make_recipe(global_batch=12)

    def step(scale: float) -> float:
        chips = tuple(
            make_chip(name, scale * rate, bandwidth=scale * 1e9)
            for name, rate in zip("abcd", (1e9, 2e9, 3e9, 1e9), strict=True)
        )
        link = Link(bandwidth_bytes_per_s=scale * 1e7, latency_s=1e-3 / scale)
        cluster = Cluster(chips=chips, links=(link,))
        return build_plan(split, recipe, cluster).step_s

    assert step(factor) == pytest.approx(step(1.0) / factor)


def test_recompute_repeats_the_forward() -> None:
    recipe = make_recipe()
    config, length = recipe.model, recipe.batch.sequence_length
    cost = layer_cost(config, 3, length, "fp32", True)
    assert cost.forward_flops == forward_flops(config, 3, length, "fp32")
    kept = backward_flops(config, 3, length, "fp32", False)
    assert cost.backward_flops == kept + cost.forward_flops


def test_unlike_formats_meet_in_fp32() -> None:
    config = make_recipe().model
    assert boundary_bytes(config, 10, 3, "bf16", "bf16") == 3 * 10 * 64 * 2
    assert boundary_bytes(config, 10, 3, "bf16", "fp16") == 3 * 10 * 64 * 4
    assert boundary_bytes(config, 10, 3, "bf16", "fp32") == 3 * 10 * 64 * 4


def test_the_reference_plans_share_evenly() -> None:
    recipe, cluster = make_recipe(global_batch=10), make_cluster([1e9, 2e9, 3e9])
    assert [r.num_samples for r in even_data_parallel(recipe, cluster).replicas] == [4, 3, 3]
    (replica,) = even_pipeline(recipe, cluster).replicas
    assert [(s.first_layer, s.last_layer) for s in replica.stages] == [(0, 3), (3, 5), (5, 8)]
    few = even_data_parallel(make_recipe(global_batch=2), cluster)
    assert few.idle_chips == ("c",)
