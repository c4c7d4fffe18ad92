"""The choices between time and money: the fastest plans of parts of a cluster, and what they cost.

Parts are whole kinds of chips; with one or two kinds also half of the chips of each. A point that
another beats in both speed and cost is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from motley.cluster import Cluster
from motley.errors import NoPlanError
from motley.plan.plan import Plan
from motley.plan.search.groupings import kinds_of
from motley.plan.search.search import bare_plan
from motley.plan.space import ANY, Space
from motley.plan.stack import MOTLEY, Stack
from motley.recipe import Recipe

HALVED_KINDS = 2
"""Up to as many kinds also take part with half of their chips."""

MOST_KINDS = 4
"""Of more, only the kinds alone and all together are planned."""


@dataclass(frozen=True, kw_only=True)
class FrontierPoint:
    """The fastest plan found for some of the chips. All figures are predicted."""

    label: str
    """The chips that it may use: "8 x a100-sxm-80g, 16 x rtx-4090"."""
    num_chips: int
    """Chips that work."""
    step_s: float
    tokens_per_s: float
    usd_per_hour: float | None
    """None where a price is unknown."""
    usd_per_billion_tokens: float | None
    plan: Plan


def frontier(
    recipe: Recipe,
    cluster: Cluster,
    *,
    chosen: Plan | None = None,
    space: Space = ANY,
    stack: Stack = MOTLEY,
) -> tuple[FrontierPoint, ...]:
    """The points that no other beats in tokens/s and cost, the slowest first.

    Without prices fewer chips count as cheaper. `chosen`, a plan of the whole cluster, is among the
    points whatever beats it.
    """
    points = [] if chosen is None else [_point(chosen, cluster)]
    for part in _parts(cluster):
        try:
            plan = bare_plan(recipe, part, space=space, stack=stack)
        except NoPlanError:
            continue
        if chosen is None or plan.replicas != chosen.replicas:
            points.append(_point(plan, part))
    priced = all(point.usd_per_billion_tokens is not None for point in points)
    kept = [
        point
        for point in points
        if point.plan is chosen or not any(_beats(other, point, priced) for other in points)
    ]
    return tuple(sorted(kept, key=lambda point: (point.tokens_per_s, point.label)))


def _parts(cluster: Cluster) -> Iterator[Cluster]:
    """Parts of the cluster, each once; a kind takes part with none, half or all of its chips."""
    kinds = [tuple(name for node in kind.nodes for name in node) for kind in kinds_of(cluster)]
    halves = len(kinds) <= HALVED_KINDS
    options = [
        dict.fromkeys([0, len(names) // 2, len(names)] if halves else [0, len(names)])
        for names in kinds
    ]
    for counts in product(*options):
        used = [count for count in counts if count]
        many = len(kinds) > MOST_KINDS and 1 < len(used) < len(kinds)
        if used and not many:
            left_out = [
                name for names, count in zip(kinds, counts, strict=True) for name in names[count:]
            ]
            yield cluster.without(left_out)


def _point(plan: Plan, part: Cluster) -> FrontierPoint:
    counts: dict[str, int] = {}
    for chip in part.chips:
        counts[chip.kind] = counts.get(chip.kind, 0) + 1
    return FrontierPoint(
        label=", ".join(f"{count} x {kind}" for kind, count in counts.items()),
        num_chips=len(plan.chips),
        step_s=plan.step_s,
        tokens_per_s=plan.tokens_per_s,
        usd_per_hour=plan.usd_per_hour,
        usd_per_billion_tokens=plan.usd_per_billion_tokens,
        plan=plan,
    )


def _beats(other: FrontierPoint, point: FrontierPoint, priced: bool) -> bool:
    """Whether another point is no slower and no dearer, and better in one of them or listed first
    of equals."""
    mine, its = _cost(point, priced), _cost(other, priced)
    if other is point or other.tokens_per_s < point.tokens_per_s or its > mine:
        return False
    equal = other.tokens_per_s == point.tokens_per_s and its == mine
    return not equal or other.label < point.label


def _cost(point: FrontierPoint, priced: bool) -> float:
    """USD per billion tokens, or the number of chips."""
    return point.usd_per_billion_tokens or 0.0 if priced else float(point.num_chips)
