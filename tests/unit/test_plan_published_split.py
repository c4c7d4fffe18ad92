"""Published cases on the evaluator: as long as a plan on a cluster, and what a stack changes."""

from __future__ import annotations

import dataclasses

import pytest

from motley.chips.chip import Chip, Link
from motley.cluster import Cluster
from motley.plan.layout import Layout
from motley.plan.plan import Plan, Replica, Stage
from motley.plan.published.case import Case
from motley.plan.published.predict import predict
from motley.plan.published.rows import PublishedRow
from motley.plan.published.settle import case_of
from motley.plan.published.split import split_of_case, stage_bounds
from motley.plan.simulate import simulate
from motley.plan.stack import MEGATRON, MOTLEY, Stack
from motley.plan.timing.pipeline import PipelineCost, extrapolate_pipeline, held_up, run_pipeline
from motley.recipe import BatchConfig, Recipe
from plan_cases import make_cluster, make_recipe


def gpt(**changes: object) -> Case:
    """A GPT-2 of 24 layers on nodes of four T4, and of V100 where `changes` say so."""
    fields: dict[str, object] = {
        "source": "DachengLi1/AMP src/results/homogeneous_results.txt",
        "model": "GPT-2-medium",
        "n_layers": 24,
        "d_model": 1024,
        "n_heads": 16,
        "seq_len": 1024,
        "vocab": 52256,
        "global_batch": 32,
        "micro_batch": 1,
        "chip": "T4",
        "n_chips": 16,
        "interconnect": "AWS: 4x g4dn.12xlarge (PCIe, 50 Gbps)",
        "tp": 2,
        "pp": 4,
        "dp": 2,
        **changes,
    }
    return case_of(PublishedRow(line=2, **fields))  # type: ignore[arg-type]


def as_plan(case: Case) -> tuple[Plan, Recipe, Cluster]:
    """A case of alike chips and one replica as people would write it: chips, links, a plan."""
    (kind,), size = case.chips, case.layout.num_chips
    chips = tuple(
        dataclasses.replace(kind, name=f"c{rank}", node=f"n{rank // case.per_node}")
        for rank in range(size * case.num_stages)
    )
    nodes = sorted({chip.node for chip in chips})
    links = [dataclasses.replace(case.local[0], between=(node, node)) for node in nodes]
    links.append(dataclasses.replace(case.network, between=("*", "*")))
    cluster = Cluster(name="same", chips=chips, links=tuple(links))
    recipe = Recipe(
        model=case.config,
        batch=BatchConfig(sequence_length=case.sequence_length, global_batch=32),
    )
    stages = tuple(
        Stage(
            chips=tuple(chip.name for chip in chips[stage * size : (stage + 1) * size]),
            first_layer=first,
            last_layer=last,
            precision=kind.precision,
            **case.layout._asdict(),
        )
        for stage, (first, last) in enumerate(stage_bounds(case))
    )
    members = case.layout.data
    replica = Replica(stages=stages, num_samples=32, micro_batch_size=case.micro_batch * members)
    plan = Plan(
        recipe_digest=recipe.digest,
        cluster_digest=cluster.digest,
        replicas=(replica,),
        idle_chips=(),
    )
    return plan, recipe, cluster


def untied(case: Case, **changes: object) -> Case:
    config = dataclasses.replace(case.config, tied_head=False)
    return dataclasses.replace(case, config=config, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("tensor", "stages"), [(1, 1), (4, 1), (4, 4), (1, 16)])
def test_a_case_takes_as_long_as_the_same_plan_on_a_cluster(tensor: int, stages: int) -> None:
    members = 16 // tensor // stages
    case = gpt(tp=tensor, pp=stages, dp=members, micro_batch=2)
    case = untied(case, layout=Layout(tensor, members), num_replicas=1)
    simulated = simulate(*as_plan(case), stack=case.stack).step_s
    assert predict(case).step_s == pytest.approx(simulated, rel=2e-3)


def test_alike_members_are_one_group_and_unlike_ones_replicas() -> None:
    alike = split_of_case(gpt())
    assert [len(replica.stages) for replica in alike.split] == [4]
    assert alike.layouts[0][0] == Layout(2, 2)
    mixed = {
        "chip": "12x V100-16GB + 4x T4",
        "interconnect": "AWS: 3x p3.8xlarge, 1x g4dn.12xlarge",
    }
    assert len(split_of_case(gpt(**mixed)).split) == 1
    unlike = split_of_case(gpt(**mixed, pp=2, dp=4))
    assert len(unlike.split) == 4
    kinds = [
        [unlike.evaluator.blocks[stage.block].chip.kind for stage in replica.stages]
        for replica in unlike.split
    ]
    assert [len(set(each)) for each in kinds] == [1, 1, 2, 2]


def test_an_interleaved_case_has_every_layer_once() -> None:
    (replica,) = split_of_case(dataclasses.replace(gpt(), virtual=2)).split
    assert replica.schedule == "interleaved"
    assert replica.held_by == (0, 1, 2, 3) * 2
    reached = [(stage.first_layer, stage.last_layer) for stage in replica.stages]
    assert [first for first, _ in reached] == [0, *(last for _, last in reached[:-1])]


def test_chips_that_share_out_sequences_share_their_passes() -> None:
    case = gpt(pp=1, tp=1, dp=16)
    half = dataclasses.replace(case, context=2, num_replicas=8)
    assert predict(half).pipeline_s == pytest.approx(predict(case).pipeline_s / 2, rel=1e-3)


def test_a_message_that_holds_up_its_chip_is_part_of_its_pass() -> None:
    cost = PipelineCost(
        start_s=(0.0, 0.0),
        forward_s=((1.0, 0.5), (1.0, 0.5)),
        backward_s=((2.0, 1.0), (2.0, 1.0)),
        send_s=((0.25, 0.125),),
        latency_s=(0.5,),
    )
    held = held_up(cost)
    assert held.forward_s == ((1.75, 1.125), (1.0, 0.5))
    assert held.backward_s == ((2.0, 1.0), (2.75, 1.625))
    assert held.send_s == ((0.0, 0.0),)
    for count in (1, 7):
        assert max(run_pipeline(held, count)) >= max(run_pipeline(cost, count))
    assert max(extrapolate_pipeline(held, 64)) > max(extrapolate_pipeline(cost, 64))


@pytest.mark.parametrize(
    "changes",
    [{"blocking_sends": True}, {"exchange_slows": True}, {"tied_in_pairs": True}],
    ids=lambda changes: next(iter(changes)),
)
def test_what_a_stack_does_worse_takes_longer(changes: dict[str, bool]) -> None:
    case = gpt(tp=1, pp=4, dp=4)
    base = dataclasses.replace(MOTLEY, overlap_data=True, bucket_bytes=1e6)
    seconds = [
        predict(dataclasses.replace(case, stack=stack)).step_s
        for stack in (base, dataclasses.replace(base, **changes))  # type: ignore[arg-type]
    ]
    assert seconds[1] > seconds[0]


def test_larger_buckets_are_fewer_messages() -> None:
    recipe, cluster = make_recipe(), make_cluster([1e9, 1e9], link=SLOW_START)
    plan = Plan(
        recipe_digest=recipe.digest,
        cluster_digest=cluster.digest,
        replicas=tuple(_whole(chip) for chip in cluster.chips),
        idle_chips=(),
    )
    small, large = (
        simulate(plan, recipe, cluster, stack=_stack(bucket_bytes)).exposed_sync_s
        for bucket_bytes in (1.0, 1e9)
    )
    assert small > large + 5.0


SLOW_START = Link(bandwidth_bytes_per_s=1e12, latency_s=1.0, source="emulated")


def _whole(chip: Chip) -> Replica:
    stage = Stage(chips=(chip.name,), first_layer=0, last_layer=8, precision=chip.precision)
    return Replica(stages=(stage,), num_samples=8, micro_batch_size=8)


def _stack(bucket_bytes: float) -> Stack:
    return dataclasses.replace(MOTLEY, bucket_bytes=bucket_bytes)


def test_a_stack_says_what_messages_it_sends() -> None:
    assert not MOTLEY.blocking_sends
    assert MEGATRON.blocking_sends
