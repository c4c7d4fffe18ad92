"""Puts the engine of one rank together: process groups, parameters, edges, buckets, optimizer."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist

from motley.chips.catalog import catalog
from motley.chips.chip import Chip
from motley.chips.emulated import EmulatedEdge, open_chip
from motley.chips.runtime import TORCH_DTYPES, Runtime
from motley.chips.vendors import HOST_COLLECTIVE, common_collective
from motley.cluster import Cluster
from motley.model.attention import rotary_tables
from motley.model.config import ModelConfig
from motley.model.table_counts import table_state_bytes
from motley.optim.average import TailAverage
from motley.optim.curriculum import piece_phases
from motley.plan.memory.state_memory import bytes_per_parameter
from motley.plan.memory.update import MOMENT_BYTES, moment_bytes
from motley.plan.plan import Placement, Plan
from motley.plan.timing.cost import layer_cost
from motley.plan.timing.sync import Bucket, gradient_buckets
from motley.recipe import Recipe
from motley.train.channel import ReductionClock
from motley.train.edges import Receiver, Sender
from motley.train.engine import Edges, Engine
from motley.train.health import LossWatch
from motley.train.parameters import StageParameters, build_parameters
from motley.train.reduce import GradientReducer
from motley.train.sampling import TargetSampler
from motley.train.scaling import loss_scale_for
from motley.train.sparse import Peers
from motley.train.stage import StageRunner
from motley.train.timing import StepTimer
from motley.train.update import build_update
from motley.units import Precision

PEER_TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for another that is silent before it gives up."""


@dataclass(frozen=True)
class Groups:
    """Process groups, made by all ranks in the same order."""

    control: dist.ProcessGroup
    checkpoint: dist.ProcessGroup
    buckets: tuple[dist.ProcessGroup | None, ...]
    bucket_is_direct: tuple[bool, ...]
    edges: dict[tuple[int, int], tuple[dist.ProcessGroup, bool]]
    """(sender, receiver) to the group and whether device tensors go through it."""
    embeddings: tuple[dist.ProcessGroup, bool] | None
    """The same of all ranks that hold memory tables, if there are several."""

    def by_ranks(
        self, buckets: tuple[Bucket, ...]
    ) -> dict[tuple[int, ...], tuple[dist.ProcessGroup, bool]]:
        """The groups that reduce gradients, and whether device tensors go through them."""
        groups = zip(buckets, self.buckets, self.bucket_is_direct, strict=True)
        return {bucket.ranks: (group, direct) for bucket, group, direct in groups if group}


def shared_library(chips: list[Chip]) -> str | None:
    """The collective library that all these chips share on their devices; None: host memory.

    A kind that the catalog does not have counts as a vendor of its own.
    """
    if any(chip.emulated or chip.device == "cpu" for chip in chips):
        return None
    vendors = {
        catalog()[chip.kind].vendor if chip.kind in catalog() else chip.kind for chip in chips
    }
    backend = common_collective([chip.device for chip in chips], vendors)
    if backend in (None, HOST_COLLECTIVE) or not dist.is_backend_available(str(backend)):
        return None
    return backend


def make_groups(
    plan: Plan, cluster: Cluster, buckets: tuple[Bucket, ...], *, has_tables: bool = False
) -> Groups:
    """All process groups of a plan. Every rank must call this at the same point."""
    placements = list(plan.placements())
    chips = [cluster.chip(place.stage.chip) for place in placements]
    made: dict[tuple[tuple[int, ...], str], dist.ProcessGroup] = {}

    def group_of(ranks: tuple[int, ...]) -> tuple[dist.ProcessGroup, bool]:
        library = shared_library([chips[rank] for rank in ranks])
        key = (ranks, library or "gloo")
        if key not in made:
            made[key] = _new_group(list(ranks), key[1])
        return made[key], library is not None

    everyone = list(range(plan.world_size))
    control, checkpoint = _new_group(everyone, "gloo"), _new_group(everyone, "gloo")
    bucket_groups = [
        group_of(bucket.ranks) if len(bucket.ranks) > 1 else (None, False) for bucket in buckets
    ]
    first_ranks = _embedding_ranks(plan)
    embeddings = group_of(first_ranks) if has_tables and len(first_ranks) > 1 else None
    edges = {}
    for place in placements:
        if not place.is_last:
            for pair in ((place.rank, place.rank + 1), (place.rank + 1, place.rank)):
                library = shared_library([chips[rank] for rank in pair])
                group = _new_group(list(pair), library or "gloo")
                edges[pair] = (group, library is not None)
    return Groups(
        control=control,
        checkpoint=checkpoint,
        buckets=tuple(group for group, _ in bucket_groups),
        bucket_is_direct=tuple(direct for _, direct in bucket_groups),
        edges=edges,
        embeddings=embeddings,
    )


def _embedding_ranks(plan: Plan) -> tuple[int, ...]:
    return tuple(place.rank for place in plan.placements() if place.is_first)


def _new_group(ranks: list[int], backend: str) -> dist.ProcessGroup:
    """A rank that is not in it gets a placeholder that it never uses."""
    group = dist.new_group(ranks, backend=backend, timeout=PEER_TIMEOUT)
    return cast(dist.ProcessGroup, group)


def build_engine(recipe: Recipe, cluster: Cluster, plan: Plan, rank: int) -> tuple[Engine, Groups]:
    """The engine of `rank`, with freshly initialised parameters. All ranks call it together."""
    placement = list(plan.placements())[rank]
    config, stage = recipe.model, placement.stage
    recompute = stage.recompute == "full"
    buckets = gradient_buckets(plan, config)
    groups = make_groups(plan, cluster, buckets, has_tables=config.tables is not None)
    runtime = open_chip(cluster.chip(stage.chip))
    parameters = build_parameters(config, stage.layers, runtime, recipe.seed)
    if groups.embeddings is not None and placement.is_first:
        parameters.tables.join(Peers(_embedding_ranks(plan), rank, *groups.embeddings))
    moments = moment_bytes(recipe, stage.first_layer, stage.last_layer)
    hold_parameters(runtime, parameters, config, _lengths(recipe), moments)
    costs = functools.partial(layer_cost, config, precision=stage.precision, recompute=recompute)
    engine = Engine(
        recipe=recipe,
        placement=placement,
        runtime=runtime,
        parameters=parameters,
        runner=StageRunner(config, runtime, parameters, costs, recompute=recompute),
        edges=_make_edges(placement, cluster, runtime, groups),
        buckets=buckets,
        reducer=_make_reducer(runtime, parameters, buckets, groups, rank),
        optimizer=build_update(
            recipe, cluster, plan, rank, runtime, parameters, groups.by_ranks(buckets)
        ),
        average=TailAverage({name: parameters.masters[name] for name in parameters.gradients}),
        control=groups.control,
        clock=ReductionClock(plan, recipe, cluster, buckets),
        scale=loss_scale_for({place.stage.precision for place in plan.placements()}),
        watch=LossWatch(recipe),
        targets=TargetSampler(recipe, parameters.modules),
        answers_for=_answers_for(buckets, rank),
        timer=StepTimer(runtime),
    )
    return engine, groups


def _lengths(recipe: Recipe) -> list[int]:
    """Of the sequences of the whole training."""
    return [recipe.batch.sequence_length // pieces for pieces, _ in piece_phases(recipe)]


def hold_parameters(
    runtime: Runtime,
    parameters: StageParameters,
    config: ModelConfig,
    lengths: Sequence[int],
    moments: float = MOMENT_BYTES,
) -> None:
    """Masters and gradients in fp32, so many bytes of moments per parameter, and the compute copy
    if there is one.

    Neither they nor the rotary tables of all lengths, which layers share, count as activations.
    """
    tables = [
        table
        for length in lengths
        if config.positions == "rotary"
        for table in rotary_tables(config, length, runtime.device, runtime.dtype)
    ]
    runtime.exclude([*parameters.compute.values(), *tables])
    kept = bytes_per_parameter(runtime.chip.precision, moments)
    runtime.hold(parameters.num_parameters * kept)
    if 0 in parameters.modules:
        runtime.hold(table_state_bytes(config))


def _answers_for(buckets: tuple[Bucket, ...], rank: int) -> tuple[int, ...]:
    """Each group is answered for by the lowest rank that holds it."""
    return tuple(group for bucket in buckets if bucket.ranks[0] == rank for group in bucket.groups)


def _make_reducer(
    runtime: Runtime,
    parameters: StageParameters,
    buckets: tuple[Bucket, ...],
    groups: Groups,
    rank: int,
) -> GradientReducer:
    held = [index for index, bucket in enumerate(buckets) if rank in bucket.ranks]
    return GradientReducer(
        runtime,
        {index: [parameters.buffers[group] for group in buckets[index].groups] for index in held},
        {index: groups.buckets[index] for index in held},
        direct={index: groups.bucket_is_direct[index] for index in held},
    )


def _make_edges(placement: Placement, cluster: Cluster, runtime: Runtime, groups: Groups) -> Edges:
    rank, stages = placement.rank, placement.replica.stages

    def sender(step: int) -> Sender:
        peer, other = rank + step, stages[placement.position + step]
        group, direct = groups.edges[(rank, peer)]
        link = cluster.link(placement.stage.chip, other.chip)
        return Sender(
            runtime, peer, edge_dtype(placement.stage.precision, other.precision),
            group=group, direct=direct, emulated=EmulatedEdge(link) if link.emulated else None,
        )  # fmt: skip

    def receiver(step: int) -> Receiver:
        peer, other = rank + step, stages[placement.position + step]
        group, direct = groups.edges[(peer, rank)]
        return Receiver(
            runtime, peer, edge_dtype(placement.stage.precision, other.precision),
            group=group, direct=direct,
        )  # fmt: skip

    return Edges(
        inputs=None if placement.is_first else receiver(-1),
        outputs=None if placement.is_last else sender(+1),
        output_gradients=None if placement.is_last else receiver(+1),
        input_gradients=None if placement.is_first else sender(-1),
    )


def edge_dtype(first: Precision, second: Precision) -> torch.dtype:
    """The dtype between two stages: theirs if they agree, else fp32, which holds both."""
    return TORCH_DTYPES[first] if first == second else torch.float32
