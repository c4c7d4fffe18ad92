"""Plans that a person has edited: each mistake is named with its remedy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from motley.errors import NoPlanError, PlanMismatchError
from motley.plan.given import predict_given
from motley.plan.plan import Plan, Replica, Stage, load_plan
from motley.plan.search.build import build_plan
from motley.plan.search.choices import ReplicaChoice, StageChoice
from motley.plan.stack import MOTLEY, TORCHTITAN
from motley.plan.validate import require_executable, stage_needs, validate
from plan_cases import make_cluster, make_recipe

RECIPE = make_recipe(global_batch=8)
CLUSTER = make_cluster([1e9, 2e9, 1e9])
PLAN = build_plan(
    (
        ReplicaChoice((StageChoice(0, 0, 3), StageChoice(1, 3, 8)), 2, 5),
        ReplicaChoice((StageChoice(2, 0, 8),), 3, 3),
    ),
    RECIPE,
    CLUSTER,
)


def with_stage(plan: Plan, replica: int, position: int, **changes: Any) -> Plan:
    stages = list(plan.replicas[replica].stages)
    stages[position] = dataclasses.replace(stages[position], **changes)
    return with_replica(plan, replica, stages=tuple(stages))


def with_replica(plan: Plan, index: int, **changes: Any) -> Plan:
    replicas = list(plan.replicas)
    replicas[index] = dataclasses.replace(replicas[index], **changes)
    return dataclasses.replace(plan, replicas=tuple(replicas))


def test_a_right_plan_passes_and_survives_its_file(tmp_path: Path) -> None:
    validate(PLAN, RECIPE, CLUSTER)
    path = tmp_path / "plan.json"
    PLAN.save(path)
    assert load_plan(path) == PLAN


Edit = Callable[[Plan], Plan]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda p: dataclasses.replace(p, replicas=()), "no replica"),
        (
            lambda p: with_stage(p, 0, 0, chips=("aa",)),
            "chip 'aa', which cluster 'test' does not have",
        ),
        (lambda p: with_stage(p, 0, 0, chips=("c",)), "chip 'c' has 2 stages"),
        (lambda p: with_stage(p, 0, 0, chips=("a", "b")), r"names 2 chips for 1 x 1"),
        (lambda p: with_stage(p, 0, 0, tensor=2), r"names 1 chips for 2 x 1"),
        (lambda p: with_stage(p, 0, 0, tensor=-1, data=-1), r"names 1 chips for -1 x -1"),
        (lambda p: with_stage(p, 0, 0, expert=0), r"share the model's experts \(expert = 0\)"),
        (
            lambda p: with_stage(p, 0, 0, chips=("a", "b"), data=2),
            r"'a' \(emulated-1e\+09\) and 'b' .* unlike in training_flops_per_s\.",
        ),
        (
            lambda p: with_stage(p, 0, 0, chips=("a", "b", "c"), tensor=3),
            r"3 x a ... c cannot share the model's heads \(tensor = 3\): it has 4",
        ),
        (
            lambda p: with_stage(p, 0, 0, chips=("a", "c"), data=2, expert=2),
            r"2 x a ... c cannot share the model's experts .*: it has no experts",
        ),
        (lambda p: with_stage(p, 0, 0, precision="bf16"), "chip 'a' has no rate for bf16"),
        (lambda p: with_stage(p, 0, 1, first_layer=4), "must begin with 3"),
        (lambda p: with_stage(p, 0, 0, last_layer=0), "have one at least"),
        (lambda p: with_stage(p, 1, 0, last_layer=7), "the model has 8 layers"),
        (lambda p: with_replica(p, 1, num_samples=4), "have 9 samples together"),
        (lambda p: with_replica(p, 1, num_samples=0), "replica 1 has 0 samples"),
        (lambda p: with_replica(p, 1, micro_batch_size=4), "in micro-batches of 4"),
        (lambda p: with_replica(p, 1, stages=()), "the model has 8 layers"),
    ],
)
def test_each_mistake_is_named(edit: Edit, message: str) -> None:
    with pytest.raises(PlanMismatchError, match=message) as info:
        validate(edit(PLAN), RECIPE, CLUSTER)
    assert info.value.remedy


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda p: with_stage(p, 0, 0, recompute="selective"), "recomputes attention only"),
        (lambda p: with_stage(p, 0, 0, chips=("a", "d"), data=2), "2 x a ... d share a stage"),
        (lambda p: with_replica(p, 0, schedule="zero-bubble"), "schedule 'zero-bubble'"),
    ],
)
def test_what_can_only_be_planned_is_not_trained(edit: Edit, reason: str) -> None:
    require_executable(PLAN)
    with pytest.raises(PlanMismatchError, match=reason) as info:
        require_executable(edit(PLAN))
    assert "--trainable" in info.value.remedy


def test_memory_is_a_hard_limit() -> None:
    chips = (dataclasses.replace(CLUSTER.chips[0], memory_bytes=2**20), *CLUSTER.chips[1:])
    with pytest.raises(NoPlanError, match=r"chip 'a' needs .* and has 1 MiB: .* are lacking"):
        validate(PLAN, RECIPE, dataclasses.replace(CLUSTER, chips=chips))


def test_memory_is_that_of_the_software() -> None:
    replica = PLAN.replicas[0]
    ours, theirs = (
        stage_needs(replica, RECIPE, CLUSTER, stack=stack) for stack in (MOTLEY, TORCHTITAN)
    )
    assert ours == stage_needs(replica, RECIPE, CLUSTER)
    assert all(other > own for own, other in zip(ours, theirs, strict=True))
    predicted, _ = predict_given(PLAN, RECIPE, CLUSTER, stack=TORCHTITAN)
    assert [stage.memory_bytes for stage in predicted.replicas[0].stages] == theirs


def test_a_stage_says_what_it_is() -> None:
    stage = Stage(chips=("a",), first_layer=0, last_layer=2, precision="fp32")
    assert list(stage.layers) == [0, 1]
    assert Replica(stages=(stage,), num_samples=5, micro_batch_size=2).num_micro_batches == 3
