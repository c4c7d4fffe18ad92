"""What lost against a plan, and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from motley.cluster import Cluster
from motley.plan.explain.shares import called, listed
from motley.plan.plan import Plan, Rejected, Stage
from motley.plan.search.build import Built, built, even_batch, even_stages
from motley.plan.search.memo import Memo
from motley.plan.simulate import cluster_evaluator
from motley.plan.stack import Stack
from motley.recipe import Recipe
from motley.units import percent, size

NOTABLE = 0.05
"""Shares of the step below this are not worth a sentence."""

ALIKE = 1e-3
"""Steps and prices that differ by a smaller share are told as equal."""

MOST_FOR_EVEN = 16
"""Chips up to which the even splits, which take them one by one, are compared with."""

MOST_REPLICAS_SHOWN = 4


def explain_rejected(
    chosen: Built,
    others: Sequence[Built],
    recipe: Recipe,
    cluster: Cluster,
    stack: Stack,
    memo: Memo,
) -> Plan:
    """The plan with the best others, and for few chips the two even splits, as rejected ones."""
    rejected = [_reject(describe(other.plan), other, chosen.plan) for other in others]
    if len(cluster.chips) <= MOST_FOR_EVEN:
        evaluator = cluster_evaluator(recipe, cluster, stack=stack, memo=memo)
        groups = [(chip.name,) for chip in cluster.chips]
        for name, split in (
            ("even batch over all chips", even_batch(evaluator)),
            ("even pipeline split", even_stages(evaluator)),
        ):
            even = built(evaluator, split, recipe, cluster, groups)
            rejected.append(_reject(f"{name}: {describe(even.plan)}", even, chosen.plan))
    return dataclasses.replace(chosen.plan, rejected=tuple(rejected))


def describe(plan: Plan) -> str:
    """The split in a line: "a: 12 | b > c: 4 samples"."""
    counts: dict[str, int] = {}
    for replica in plan.replicas:
        groups = dict.fromkeys(stage.label for stage in replica.stages)
        text = f"{' > '.join(groups)}: {replica.num_samples}"
        counts[text] = counts.get(text, 0) + 1
    shown = list(counts)[:MOST_REPLICAS_SHOWN]
    more = len(plan.replicas) - len(shown)
    rest = f" | {more} more replica{'s' if more > 1 else ''}" if more else " samples"
    return " | ".join(shown) + rest


def lacks(plan: Plan) -> list[tuple[Stage, int]]:
    """Stages that do not fit, and the bytes that they lack; the worst first."""
    missing = [
        (placement.stage, placement.stage.memory_bytes - placement.stage.available_bytes)
        for placement in plan.placements()
    ]
    return sorted((pair for pair in missing if pair[1] > 0), key=lambda pair: -pair[1])


def _reject(split: str, other: Built, chosen: Plan) -> Rejected:
    missing = lacks(other.plan)
    if missing:
        stage, lack = missing[0]
        return Rejected(split=split, reason=f"does not fit: {called(stage)} lacks {size(lack)}")
    step_s = other.plan.step_s
    slower = step_s / chosen.step_s - 1
    if slower < ALIKE:
        reason = _not_slower(slower, other.plan, chosen)
    else:
        reason = f"slower by {percent(slower)}: {_cause(other)}"
    return Rejected(split=split, reason=reason, step_s=step_s)


def _not_slower(slower: float, other: Plan, chosen: Plan) -> str:
    mine, its = chosen.usd_per_billion_tokens, other.usd_per_billion_tokens
    if mine is not None and its is not None and its > mine * (1 + ALIKE):
        return f"costs {percent(its / mine - 1)} more"
    if slower < -ALIKE:
        return f"faster by {percent(-slower)}: the search did not come upon it"
    return "not faster than the chosen one"


def _cause(other: Built) -> str:
    """What the step's time is lost to."""
    plan = other.plan
    stages = [placement.stage for placement in plan.placements()]
    exposed = other.exposed_s / plan.step_s
    idlest = min(stages, key=lambda stage: stage.busy_share)
    waiting = max(0.0, 1.0 - idlest.busy_share - exposed)
    if exposed > max(NOTABLE, waiting):
        return f"the gradients' exchange takes {percent(exposed)} of the step after the last pass"
    if plan.idle_chips and waiting < NOTABLE:
        return f"it leaves out {listed(plan.idle_chips)}"
    if waiting < NOTABLE and any(stage.recompute != "none" for stage in stages):
        return "it has to recompute activations"
    return f"{called(idlest)} waits {percent(waiting)} of the step"
