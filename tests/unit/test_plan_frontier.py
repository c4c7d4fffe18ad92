"""The frontier of time and money, and what one more chip brings."""

from __future__ import annotations

import dataclasses

import pytest

from motley.cluster import Cluster
from motley.plan.explain.frontier import frontier
from motley.plan.explain.more import one_more
from motley.plan.objective import Objective
from motley.plan.search.search import search
from motley.plan.space import TRAINABLE
from plan_cases import ETHERNET, least_memory, make_cluster, make_recipe

RECIPE = make_recipe(layers=4, global_batch=16)


def priced(speeds: list[float], prices: list[float | None]) -> Cluster:
    cluster = make_cluster(speeds, link=ETHERNET)
    chips = tuple(
        dataclasses.replace(chip, usd_per_hour=price)
        for chip, price in zip(cluster.chips, prices, strict=True)
    )
    return dataclasses.replace(cluster, chips=chips)


def test_no_point_beats_another_and_the_chosen_plan_is_there() -> None:
    cluster = priced([4e9, 1e9, 1e9], [4.0, 0.5, 0.5])
    plan = search(RECIPE, cluster)
    points = frontier(RECIPE, cluster, chosen=plan, space=TRAINABLE)
    assert [point.plan.replicas for point in points].count(plan.replicas) == 1
    assert any(point.plan is plan for point in points)
    assert len(points) >= 2
    speeds = [point.tokens_per_s for point in points]
    costs = [point.usd_per_billion_tokens for point in points if point.plan is not plan]
    assert speeds == sorted(speeds)
    assert costs == sorted(costs)  # type: ignore[type-var]
    cheap = points[0]
    assert cheap.label == "1 x emulated-1e+09"
    assert cheap.usd_per_hour == pytest.approx(0.5)


def test_without_prices_fewer_chips_are_cheaper() -> None:
    cluster = priced([2e9, 2e9], [None, None])
    points = frontier(RECIPE, cluster, space=TRAINABLE)
    assert [point.num_chips for point in points] == [1, 2]
    assert {point.usd_per_billion_tokens for point in points} == {None}


def test_one_more_chip_of_the_faster_kind_brings_more() -> None:
    cluster = make_cluster([4e9, 1e9], link=ETHERNET)
    plan = search(RECIPE, cluster)
    first, second = one_more(RECIPE, cluster, plan, space=TRAINABLE)
    assert (first.kind, second.kind) == ("emulated-4e+09", "emulated-1e+09")
    assert first.gain > second.gain >= 0
    assert first.unit == "tokens/s"
    assert first.reached == pytest.approx(plan.tokens_per_s * (1 + first.gain))


def test_one_more_chip_is_told_by_the_cost_where_that_is_the_goal() -> None:
    """A cheap chip that works alone is not cheaper a token beside another; those that cannot hold
    the model alone replace a dear one."""
    cost = Objective(goal="cost")
    cluster = priced([4e9, 1e9], [1.0, 4.0])
    plan = search(RECIPE, cluster, objective=cost)
    assert len(plan.chips) == 1
    for each in one_more(RECIPE, cluster, plan, objective=cost, space=TRAINABLE):
        assert (each.unit, each.change) == ("USD per billion tokens", "nothing")
        assert each.reached == pytest.approx(plan.usd_per_billion_tokens)
    small = dataclasses.replace(cluster.chips[0], memory_bytes=int(0.9 * least_memory(RECIPE)))
    cluster = dataclasses.replace(cluster, chips=(small, cluster.chips[1]))
    plan = search(RECIPE, cluster, objective=cost)
    first, second = one_more(RECIPE, cluster, plan, objective=cost, space=TRAINABLE)
    assert (first.kind, second.change) == (small.kind, "nothing")
    assert first.reached == pytest.approx(plan.usd_per_billion_tokens * (1 - first.gain))
    assert first.change.startswith("-")


def test_one_more_chip_may_be_a_cheaper_way_to_end_in_time() -> None:
    cluster = priced([2e9, 2.1e9], [1.0, 3.0])
    late = search(RECIPE, cluster).step_s * 1.1
    in_time = Objective(goal="deadline", longest_step_s=late)
    plan = search(RECIPE, cluster, objective=in_time)
    first, _ = one_more(RECIPE, cluster, plan, objective=in_time, space=TRAINABLE)
    assert (first.kind, first.unit) == ("emulated-2e+09", "USD per billion tokens")
    assert first.gain == pytest.approx(0.5, abs=0.05)
