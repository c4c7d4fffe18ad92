"""What a plan costs: its chips by the hour, tokens and the whole training by the time they take.

An unknown price makes every sum unknown that it is part of.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from motley.chips.chip import Chip
from motley.cluster import Cluster
from motley.plan.objective import SECONDS_PER_HOUR
from motley.plan.plan import Plan
from motley.plan.traffic import usd_per_step
from motley.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Money:
    """Predicted, from prices that are quoted or given; None where a price is unknown."""

    usd_per_hour: float | None
    """Of the chips that work, and of what is sent between sites."""
    usd_per_billion_tokens: float | None
    training_hours: float
    """All steps of the recipe."""
    training_usd: float | None
    unknown_kinds: tuple[str, ...]
    """Kinds of chips that work, and pairs of sites that exchange, without a known price."""


def money_of(plan: Plan, recipe: Recipe, cluster: Cluster) -> Money:
    """What the plan's chips and what they send between sites cost; idle chips are not counted."""
    hourly, unknown = hourly_price(cluster.chip(name) for name in plan.chips)
    sent, dear = usd_per_step(plan, recipe, cluster)
    if dear:
        hourly, unknown = None, (*unknown, *dear)
    elif hourly is not None and sent:
        hourly += sent / plan.step_s * SECONDS_PER_HOUR
    hours = plan.step_s * recipe.schedule.steps / SECONDS_PER_HOUR
    hours_per_billion = 1e9 / plan.tokens_per_s / SECONDS_PER_HOUR
    return Money(
        usd_per_hour=hourly,
        usd_per_billion_tokens=None if hourly is None else hourly * hours_per_billion,
        training_hours=hours,
        training_usd=None if hourly is None else hourly * hours,
        unknown_kinds=unknown,
    )


def with_price(plan: Plan, recipe: Recipe, cluster: Cluster) -> Plan:
    """The plan with what it costs, as far as that is known."""
    money = money_of(plan, recipe, cluster)
    return dataclasses.replace(
        plan,
        usd_per_hour=money.usd_per_hour,
        usd_per_billion_tokens=money.usd_per_billion_tokens,
    )


def hourly_price(chips: Iterable[Chip]) -> tuple[float | None, tuple[str, ...]]:
    """USD per hour of all chips together, or None and the kinds whose price is unknown."""
    total = 0.0
    unknown: dict[str, None] = {}
    for chip in chips:
        if chip.usd_per_hour is None:
            unknown[chip.kind] = None
        else:
            total += chip.usd_per_hour
    return (None if unknown else total), tuple(unknown)
