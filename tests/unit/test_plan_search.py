"""What must hold for every plan that the search gives, and what it must reach."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley.chips.chip import Link
from motley.cluster import Cluster
from motley.errors import NoPlanError, RecipeError
from motley.model.table_config import MemoryTables
from motley.optim.flops import optimizer_flops
from motley.plan.plan import Plan
from motley.plan.search.blocks import single_chips
from motley.plan.search.classes import block_classes
from motley.plan.search.evaluate import Evaluator
from motley.plan.search.levels import Levels
from motley.plan.search.refine import LARGER_MICRO_BATCH
from motley.plan.search.search import search
from motley.plan.simulate import simulate
from motley.plan.space import ANY
from motley.plan.validate import validate
from motley.recipe import OptimizerConfig, Recipe
from plan_cases import ETHERNET, FAST, ROOMY, least_memory, make_chip, make_cluster, make_recipe

speeds = st.lists(st.sampled_from([1e9, 2e9, 3e9, 5e9, 8e9]), min_size=1, max_size=4)
links = st.sampled_from([FAST, ETHERNET, Link(bandwidth_bytes_per_s=1e7, latency_s=1e-3)])


def efficiency(plan: Plan, recipe: Recipe, cluster: Cluster) -> float:
    """Predicted tokens/s over the sum of what each chip gives alone, with memory enough."""
    alone = 0.0
    for chip in cluster.chips:
        roomy = Cluster(chips=(dataclasses.replace(chip, memory_bytes=ROOMY),))
        alone += search(recipe, roomy).tokens_per_s
    return plan.tokens_per_s / alone


@settings(max_examples=40)
@given(speeds, links, st.integers(1, 12), st.data())
def test_every_plan_is_whole_fits_and_is_the_same_again(
    rates: Sequence[float], link: Link, batch: int, data: st.DataObject
) -> None:
    recipe = make_recipe(layers=3, global_batch=batch)
    least = least_memory(recipe)
    shares = st.sampled_from([0.5, 0.8, 1.1, 2.0, 100.0])
    memory = [least * data.draw(shares) for _ in rates]
    cluster = make_cluster(rates, memory, link)
    try:
        plan = search(recipe, cluster)
    except NoPlanError:
        plan = None
    if plan is None:
        assert max(memory) < 1.1 * least
        return
    validate(plan, recipe, cluster)
    for placement in plan.placements():
        assert 0 < placement.stage.memory_bytes <= placement.stage.available_bytes
    used = [placement.stage.chip for placement in plan.placements()]
    assert sorted([*used, *plan.idle_chips]) == [chip.name for chip in cluster.chips]
    assert plan.step_s == simulate(plan, recipe, cluster).step_s
    assert search(recipe, cluster) == plan


@settings(max_examples=25)
@given(speeds, links, st.sampled_from([1e9, 4e9]), st.integers(2, 12))
def test_one_chip_more_never_makes_the_step_longer(
    rates: list[float], link: Link, added: float, batch: int
) -> None:
    recipe = make_recipe(layers=3, global_batch=batch)
    fewer = search(recipe, make_cluster(rates, link=link)).step_s
    more = search(recipe, make_cluster([*rates, added], link=link)).step_s
    assert more <= fewer * (1 + LARGER_MICRO_BATCH) * (1 + 1e-9)


@settings(max_examples=25)
@given(speeds, st.integers(1, 12))
def test_doubling_all_rates_halves_the_step(rates: Sequence[float], batch: int) -> None:
    recipe = make_recipe(layers=3, global_batch=batch)

    def step(scale: float) -> float:
        cluster = make_cluster([scale * rate for rate in rates])
        chips = tuple(
            dataclasses.replace(chip, memory_bandwidth_bytes_per_s=scale * 1e12)
            for chip in cluster.chips
        )
        link = Link(bandwidth_bytes_per_s=scale * 1e12)
        return search(recipe, dataclasses.replace(cluster, chips=chips, links=(link,))).step_s

    assert step(2.0) == pytest.approx(step(1.0) / 2, rel=1e-6)


def test_four_unlike_chips_come_near_their_sum() -> None:
    recipe = make_recipe(layers=12, width=128, global_batch=64)
    cluster = make_cluster([4e9, 2e9, 1e9, 1e9], link=ETHERNET)
    plan = search(recipe, cluster)
    assert efficiency(plan, recipe, cluster) >= 0.95
    assert not plan.idle_chips


def test_chips_that_cannot_hold_the_model_form_a_pipeline() -> None:
    recipe = make_recipe(layers=12, width=128, global_batch=64)
    small = 0.7 * least_memory(recipe)
    cluster = make_cluster([8e9, 4e9, 2e9, 1e9, 1e9], [ROOMY] * 3 + [small] * 2, ETHERNET)
    plan = search(recipe, cluster)
    stages = {
        stage.chip: len(replica.stages) for replica in plan.replicas for stage in replica.stages
    }
    assert stages["d"] > 1
    assert stages["e"] > 1
    assert efficiency(plan, recipe, cluster) >= 0.9


def test_a_stage_recomputes_only_where_it_must() -> None:
    recipe = make_recipe(layers=6, width=128, global_batch=1)
    roomy = search(recipe, make_cluster([1e9]))
    tight = search(recipe, make_cluster([1e9], [1.001 * least_memory(recipe)]))
    assert roomy.replicas[0].stages[0].recompute == "none"
    assert tight.replicas[0].stages[0].recompute == "full"
    assert tight.step_s > roomy.step_s
    assert any("recomputes" in reason for reason in tight.reasons)


def test_the_even_splits_are_among_the_rejected() -> None:
    recipe = make_recipe(layers=6, global_batch=16)
    plan = search(recipe, make_cluster([4e9, 1e9], [ROOMY, 0.8 * least_memory(recipe)]))
    even_batch, even_split = plan.rejected[-2:]
    assert even_batch.split.startswith("even batch over all chips: a: 8 | b: 8")
    assert even_batch.reason.startswith("does not fit: chip b lacks")
    assert even_batch.step_s is None
    assert even_split.split.startswith("even pipeline split: a > b: 16")
    assert even_split.step_s is not None
    assert even_split.step_s > plan.step_s


def test_what_is_lacking_is_named() -> None:
    recipe = make_recipe()
    with pytest.raises(
        NoPlanError, match=r"chip 'a' needs .* and has 1 MiB: .* are lacking"
    ) as info:
        search(recipe, make_cluster([1e9, 1e9], [2**20, 2**19]))
    assert "Give the chips" in info.value.remedy


def test_an_unknown_vocabulary_is_an_error() -> None:
    recipe = make_recipe()
    model = dataclasses.replace(recipe.model, vocab_size=None)
    with pytest.raises(RecipeError, match="vocab_size"):
        search(dataclasses.replace(recipe, model=model), make_cluster([1e9]))


def test_chips_alike_are_one_class_and_odd_links_part_them() -> None:
    cluster = make_cluster([1e9, 2e9, 1e9, 1e9])
    members = block_classes(cluster, single_chips(cluster)).members
    assert members == ((("a",), ("c",), ("d",)), (("b",),))
    odd = Link(between=("a", "b"), bandwidth_bytes_per_s=1e6)
    parted = dataclasses.replace(cluster, links=(*cluster.links, odd))
    classes = block_classes(parted, single_chips(parted))
    assert classes.members == ((("a",),), (("b",),), (("c",), ("d",)))
    assert classes.link(0, 1).bandwidth_bytes_per_s == 1e6
    assert classes.slowest((0, 1, 2)).bandwidth_bytes_per_s == 1e6


def test_assumed_links_are_told() -> None:
    cluster = dataclasses.replace(make_cluster([1e9, 1e9]), links=())
    plan = search(make_recipe(), cluster)
    assert any("assumed to move 2 GB/s" in reason for reason in plan.reasons)


def test_the_best_replica_may_leave_chips_out() -> None:
    slow = Link(bandwidth_bytes_per_s=2e9, latency_s=1e-4, source="emulated")
    plan = search(make_recipe(global_batch=4), make_cluster([1e15, 1e15], link=slow))
    assert len(plan.chips) == 1
    assert len(plan.idle_chips) == 1


def test_alike_chips_with_an_odd_link_may_share_a_stage() -> None:
    odd = Link(between=("a", "b"), bandwidth_bytes_per_s=1e6, source="emulated")
    cluster = make_cluster([1e9, 1e9, 1e9])
    parted = dataclasses.replace(cluster, links=(*cluster.links, odd))
    classes = block_classes(parted, single_chips(parted), merges=True)
    assert classes.members == ((("a",), ("b",)), (("c",),))
    assert (1, 1) in classes.needs
    plan = search(make_recipe(global_batch=1), parted, space=ANY)
    assert {"a", "b"} not in [set(placement.stage.chips) for placement in plan.placements()]
    assert max(len(placement.stage.chips) for placement in plan.placements()) == 2


def test_alike_chips_share_what_muon_computes() -> None:
    """Each of eight finds an eighth of the directions, and the search knows it."""
    recipe = dataclasses.replace(
        make_recipe(layers=4, width=256), optimizer=OptimizerConfig(kind="muon")
    )
    plan = search(recipe, make_cluster([1e10] * 8, link=ETHERNET))
    assert [len(replica.stages) for replica in plan.replicas] == [1] * 8
    alone = search(recipe, make_cluster([1e10]))
    directions = optimizer_flops(recipe) / 1e10
    assert alone.step_s > directions > 8 * 0.05 * plan.step_s
    assert plan.step_s < alone.step_s / 5


def test_what_a_share_of_the_batch_needs_is_not_taken_for_the_whole() -> None:
    """Memory tables take the more, the more tokens a step has: each plan is checked as it is."""
    model = dataclasses.replace(make_recipe().model, tables=MemoryTables(ngrams=(2, 3), rows=2**12))
    recipe = dataclasses.replace(make_recipe(global_batch=96), model=model)
    for memory in (4e6, 6e6, 8e6, 1.2e7, 2e7):
        cluster = make_cluster([2e9, 2e9, 1e9, 1e9], [memory] * 4, ETHERNET)
        try:
            plan = search(recipe, cluster)
        except NoPlanError:
            continue
        validate(plan, recipe, cluster)


def test_a_set_of_units_has_the_level_of_its_slowest_link() -> None:
    recipe = make_recipe()
    slow = Link(between=("a", "b"), bandwidth_bytes_per_s=1e6, source="emulated")
    chips = tuple(
        dataclasses.replace(chip, node=chip.name) for chip in make_cluster([1e9, 2e9, 3e9]).chips
    )
    cluster = Cluster(chips=chips, links=(ETHERNET, slow))
    classes = block_classes(cluster, single_chips(cluster))
    levels = Levels(Evaluator(recipe, classes.blocks, classes), classes)
    alone, fast, all_of_them = levels.of(np.array([[1, 0, 0], [0, 1, 1], [1, 1, 1]]))
    assert alone == 0
    assert levels.seconds[fast] < levels.seconds[all_of_them]
    assert levels.neighbourhoods()[0] == (1, 1, 1)
    assert (0, 1, 1) in levels.neighbourhoods()


def test_a_model_that_needs_a_stage_on_every_chip_of_many_is_planned() -> None:
    recipe = make_recipe(layers=70, global_batch=4)
    memory = least_memory(recipe) / 20
    chips = tuple(
        dataclasses.replace(
            make_chip(f"c{index}", 1e9, memory_bytes=memory), node=f"node{index // 8}"
        )
        for index in range(64)
    )
    cluster = Cluster(chips=chips, links=(ETHERNET,))
    plan = search(recipe, cluster)
    validate(plan, recipe, cluster)
    assert len(plan.replicas[0].stages) > 20
