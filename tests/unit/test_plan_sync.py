"""Buckets of gradients: who exchanges what, in which order, and for how long."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley.chips.chip import Link
from motley.model.config import ModelConfig
from motley.model.counts import parameter_groups
from motley.plan.plan import Plan, Replica, Stage
from motley.plan.timing.sync import (
    BUCKET_BYTES,
    Bucket,
    all_reduce_seconds,
    buckets_of,
    gradient_buckets,
    lowest_layer,
)

TIED = ModelConfig(layers=4, width=64, heads=4, vocab_size=1000, context=64)
LARGE = ModelConfig(layers=4, width=512, heads=4, vocab_size=1000, context=64)


def names(bucket: Bucket, config: ModelConfig) -> list[str]:
    return [parameter_groups(config)[index].name for index in bucket.groups]


def test_one_small_model_on_two_chips_is_one_bucket_from_the_last_layer_down() -> None:
    (bucket,) = buckets_of([(0, 6), (0, 6)], parameter_groups(TIED))
    assert bucket.ranks == (0, 1)
    assert names(bucket, TIED)[:2] == ["layer 5", "layer 4"]
    assert set(names(bucket, TIED)[-2:]) == {"token embedding", "layer 0"}
    assert bucket.num_parameters == sum(g.num_parameters for g in parameter_groups(TIED))


def test_a_tied_matrix_belongs_to_the_first_and_the_last_stage() -> None:
    buckets = buckets_of([(0, 3), (3, 6)], parameter_groups(TIED))
    (shared,) = [bucket for bucket in buckets if len(bucket.ranks) > 1]
    assert names(shared, TIED) == ["token embedding"]
    assert shared.ranks == (0, 1)
    groups = parameter_groups(TIED)
    assert lowest_layer(shared, groups, 0, 3) == 0
    assert lowest_layer(shared, groups, 3, 6) == 5


def test_replicas_that_are_cut_differently_have_their_own_holders() -> None:
    plan = Plan(
        recipe_digest="",
        cluster_digest="",
        replicas=(
            Replica(
                stages=(
                    Stage(chips=("a",), first_layer=0, last_layer=2, precision="fp32"),
                    Stage(chips=("b",), first_layer=2, last_layer=6, precision="fp32"),
                ),
                num_samples=2,
                micro_batch_size=1,
            ),
            Replica(
                stages=(Stage(chips=("c",), first_layer=0, last_layer=6, precision="fp32"),),
                num_samples=2,
                micro_batch_size=1,
            ),
        ),
    )
    holders = [bucket.ranks for bucket in gradient_buckets(plan, TIED)]
    assert holders == [(1, 2), (0, 2), (0, 1, 2), (0, 2)]


@given(st.lists(st.integers(1, 5), max_size=3), st.lists(st.integers(1, 5), max_size=3))
def test_every_group_is_in_one_bucket_and_large_buckets_hold_one_group(
    first: list[int], second: list[int]
) -> None:
    ranges: list[tuple[int, int]] = []
    for cuts in (first, second):
        bounds = [0, *sorted(set(cuts)), 6]
        ranges += pairwise(bounds)
    groups = parameter_groups(LARGE)
    buckets = buckets_of(ranges, groups)
    listed = [index for bucket in buckets for index in bucket.groups]
    assert sorted(listed) == list(range(len(groups)))
    completed = [min(groups[index].layers) for index in listed]
    assert completed == sorted(completed, reverse=True)
    for bucket in buckets:
        assert 4 * bucket.num_parameters <= BUCKET_BYTES or len(bucket.groups) == 1
        for index in bucket.groups:
            holders = [
                rank
                for rank, (low, high) in enumerate(ranges)
                if any(low <= layer < high for layer in groups[index].layers)
            ]
            assert bucket.ranks == tuple(holders)


def test_the_ring_is_held_up_by_its_slowest_path() -> None:
    slow = Link(bandwidth_bytes_per_s=1e6, latency_s=1e-3)
    fast = Link(bandwidth_bytes_per_s=1e9, latency_s=1e-5)

    def link(first: int, second: int) -> Link:
        return slow if 2 in (first, second) else fast

    assert all_reduce_seconds(1000, (0, 1), link) == pytest.approx(4000 / 1e9 + 2e-5)
    assert all_reduce_seconds(1000, (0, 1, 2), link) == pytest.approx(4 / 3 * 4000 / 1e6 + 4e-3)
    assert all_reduce_seconds(1000, (0,), link) == 0.0
