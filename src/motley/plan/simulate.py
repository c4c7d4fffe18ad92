"""Predicts one step of a plan: what every rank does when, and how long the step takes.

The prediction uses the schedule that the trainer runs, the costs that pace the emulated chips and
the order in which gradients are exchanged. It is of a step in the middle of a training: each rank
begins with its optimizer and the step ends when the last gradient has been added up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from motley.cluster import Cluster
from motley.errors import PlanMismatchError
from motley.plan.plan import Plan, Replica
from motley.plan.search.blocks import GroupLinks, Names, block_of, single_chips
from motley.plan.search.choices import ReplicaChoice, StageChoice
from motley.plan.search.evaluate import Evaluator, ReplicaTimes
from motley.plan.search.memo import Memo
from motley.plan.space import TRAINABLE, Space
from motley.plan.stack import MOTLEY, Stack
from motley.plan.timing.pipeline import ActionTime
from motley.plan.timing.sync import gradient_buckets
from motley.recipe import Recipe

SpanKind = Literal["forward", "backward", "weight", "wait", "sync", "optimizer"]
"""A "weight" pass of a zero-bubble schedule makes what gradients its backward left."""


@dataclass(frozen=True)
class Span:
    """What one rank does from `start_s` to `end_s` after the beginning of the step.

    "sync" runs beside the passes on the rank's channel; "wait" is time without any of the others.
    """

    rank: int
    kind: SpanKind
    micro_batch: int | None
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Simulation:
    """One predicted step. Ranks are the plan's."""

    step_s: float
    tokens_per_s: float
    spans: tuple[Span, ...]
    """In order of ranks, then of beginnings."""
    busy_share: tuple[float, ...]
    """Share of the step in which each rank computes (passes and optimizer)."""
    wait_share: tuple[float, ...]
    """Share in which it neither computes nor exchanges gradients."""
    exposed_sync_s: float
    """Time from the last pass of any rank to the end of the step, without that in which Muon's
    directions are computed."""


def simulate(plan: Plan, recipe: Recipe, cluster: Cluster, *, stack: Stack = MOTLEY) -> Simulation:
    """The predicted step of a plan, fitting or not; unknown chips are a `ClusterError`.

    A "rank" of the simulation is a stage, whether one chip holds it or a group.
    """
    evaluator, split = split_of(plan, recipe, cluster, stack=stack)
    spans: list[Span] = []
    times: list[ReplicaTimes] = []
    first_rank = 0
    for replica, choice in zip(plan.replicas, split, strict=True):
        record: list[ActionTime] = []
        layouts = [stage.layout for stage in replica.stages]
        times.append(evaluator.replica_times(choice, layouts, record))
        for stage, begin in enumerate(evaluator.pipeline_cost(choice, layouts).start_s):
            if choice.held_by.index(choice.held_by[stage]) == stage:
                spans.append(Span(first_rank + stage, "optimizer", None, 0.0, begin))
        spans += [_action_span(time, first_rank) for time in record]
        first_rank += len(replica.stages)
    exchanges: list[tuple[int, float, float]] = []
    step_s = evaluator.barrier(split, times, exchanges)
    buckets = gradient_buckets(plan, recipe.model, stack.bucket_bytes)
    spans += [
        Span(rank, "sync", None, start, end)
        for bucket, start, end in exchanges
        for rank in buckets[bucket].ranks
    ]
    finding = evaluator.directions_seconds(split)
    spans += [
        Span(rank, "optimizer", None, step_s - max(finding), step_s - max(finding) + seconds)
        for rank, seconds in enumerate(finding)
        if seconds
    ]
    exposed_s = step_s - max(time.finish_s for time in times) - max(finding)
    return _summarise(spans, step_s, first_rank, recipe.tokens_per_step, exposed_s)


def split_of(
    plan: Plan, recipe: Recipe, cluster: Cluster, *, stack: Stack = MOTLEY
) -> tuple[Evaluator, tuple[ReplicaChoice, ...]]:
    """A plan in the terms of an evaluator of the groups that it uses."""
    if not plan.replicas:
        raise PlanMismatchError("the plan has no replica.", remedy="Run 'motley plan'.")
    groups = tuple(
        dict.fromkeys(stage.chips for replica in plan.replicas for stage in replica.stages)
    )
    index = {names: position for position, names in enumerate(groups)}
    evaluator = cluster_evaluator(recipe, cluster, groups, stack=stack)
    return evaluator, tuple(_choice(replica, index) for replica in plan.replicas)


def _choice(replica: Replica, index: Mapping[Names, int]) -> ReplicaChoice:
    held = [index[stage.chips] for stage in replica.stages]
    places = {group: place for place, group in enumerate(dict.fromkeys(held))}
    return ReplicaChoice(
        tuple(
            StageChoice(group, stage.first_layer, stage.last_layer)
            for group, stage in zip(held, replica.stages, strict=True)
        ),
        replica.micro_batch_size,
        replica.num_samples,
        replica.schedule,
        tuple(places[group] for group in held) if len(places) < len(held) else (),
    )


def cluster_evaluator(
    recipe: Recipe,
    cluster: Cluster,
    groups: Sequence[Names] | None = None,
    *,
    space: Space = TRAINABLE,
    stack: Stack = MOTLEY,
    memo: Memo | None = None,
) -> Evaluator:
    """An evaluator whose blocks are these groups of chips; unset, every chip, in order."""
    known = tuple(groups) if groups is not None else single_chips(cluster)
    return Evaluator(
        recipe,
        [block_of(cluster, names) for names in known],
        GroupLinks(cluster, known),
        space=space,
        stack=stack,
        memo=memo,
    )


def _action_span(time: ActionTime, first_rank: int) -> Span:
    return Span(first_rank + time.stage, time.kind, time.micro_batch, time.start_s, time.end_s)


def _summarise(
    spans: list[Span], step_s: float, num_ranks: int, tokens: int, exposed_s: float
) -> Simulation:
    busy, wait, listed = [], [], []
    for rank in range(num_ranks):
        own = sorted((span for span in spans if span.rank == rank), key=_order)
        pauses = list(_pauses(rank, own, step_s))
        computed = sum(span.end_s - span.start_s for span in own if span.kind != "sync")
        busy.append(computed / step_s if step_s else 0.0)
        wait.append(sum(p.end_s - p.start_s for p in pauses) / step_s if step_s else 0.0)
        listed += sorted([*own, *pauses], key=_order)
    return Simulation(
        step_s=step_s,
        tokens_per_s=tokens / step_s if step_s else 0.0,
        spans=tuple(listed),
        busy_share=tuple(busy),
        wait_share=tuple(wait),
        exposed_sync_s=exposed_s,
    )


def _order(span: Span) -> tuple[float, str]:
    return span.start_s, span.kind


def _pauses(rank: int, spans: Iterable[Span], step_s: float) -> Iterable[Span]:
    """The gaps between spans that are sorted by their beginning, up to the step's end."""
    reached = 0.0
    for span in spans:
        if span.start_s > reached:
            yield Span(rank, "wait", None, reached, span.start_s)
        reached = max(reached, span.end_s)
    if step_s > reached:
        yield Span(rank, "wait", None, reached, step_s)
