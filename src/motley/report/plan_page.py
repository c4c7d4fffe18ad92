"""The page of pictures of a plan: the cluster, the split, the simulated step, what time costs.

    motley plan recipes/gpt2-124m.toml --cluster clusters/two-sites.toml --html plan.html

One file that needs no network, in light and dark, from a phone's width on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from motley.cluster import Cluster
from motley.plan.explain.more import OneMore
from motley.plan.money import Money, money_of
from motley.plan.plan import Plan
from motley.plan.simulate import Simulation, simulate
from motley.plan.stack import MOTLEY, Stack
from motley.recipe import Recipe
from motley.report.cluster_drawing import cluster_section
from motley.report.document import (
    alert_list,
    document,
    fact,
    page_header,
    section,
    write_page,
)
from motley.report.frontier_chart import FrontierPoint, frontier_section
from motley.report.kinds import Palette, short
from motley.report.markup import Markup, tag
from motley.report.plan_copies import Copies, Part, copies_of
from motley.report.plan_reasons import sources_section, why_section
from motley.report.split_drawing import split_section
from motley.report.step_drawing import step_section
from motley.report.words import UNKNOWN, plural, shown, size_of
from motley.units import duration, percent, si, size


def write_plan_page(
    path: Path,
    plan: Plan,
    recipe: Recipe,
    cluster: Cluster,
    *,
    frontier: Sequence[FrontierPoint] | None = None,
    one_more: Sequence[OneMore] | None = None,
    advice: Sequence[str] = (),
    stack: Stack = MOTLEY,
) -> Path:
    """Write the page of a plan, whole or not at all, and return its path.

    Without `frontier`, `one_more` or `advice` those parts are left out. `StorageError` if the file
    cannot be written, `ClusterError` if the plan has chips that the cluster lacks.
    """
    page = plan_html(
        plan, recipe, cluster, frontier=frontier, one_more=one_more, advice=advice, stack=stack
    )
    return write_page(path, page)


def plan_html(
    plan: Plan,
    recipe: Recipe,
    cluster: Cluster,
    *,
    frontier: Sequence[FrontierPoint] | None = None,
    one_more: Sequence[OneMore] | None = None,
    advice: Sequence[str] = (),
    stack: Stack = MOTLEY,
) -> str:
    """The whole page as text."""
    simulation = simulate(plan, recipe, cluster, stack=stack)
    money = money_of(plan, recipe, cluster)
    copies = copies_of(plan, recipe, cluster, stack)
    palette = Palette(cluster)
    idle = frozenset(chip.name for chip in cluster.chips) - set(plan.chips)
    sections = [
        alert_list(_alerts(plan, copies, palette)),
        section("cluster", "The cluster", cluster_section(cluster, idle, palette)),
        section(
            "split",
            "The split",
            split_section(copies, recipe, palette),
            "Wider: more layers. Taller: more of the batch. So an area is a share of the work.",
            "predicted",
        ),
        section(
            "step",
            "One step, simulated",
            step_section(plan, simulation, palette),
            _step_words(simulation),
            "predicted",
        ),
        _frontier(frontier, plan, money),
        section("why", "Why this plan", why_section(plan, one_more, palette)),
        _advice(advice),
        section("sources", "Where figures come from", sources_section(plan, cluster, stack)),
    ]
    return document(
        f"{recipe.name} on {cluster.name}: motley plan",
        _header(plan, recipe, cluster, simulation, money, copies),
        sections,
        _footer(),
        ("page.css", "plan_page.css"),
    )


def _header(
    plan: Plan,
    recipe: Recipe,
    cluster: Cluster,
    simulation: Simulation,
    money: Money,
    copies: Sequence[Copies],
) -> Markup:
    fullest = max(
        (part for each in copies for part in each.parts),
        key=lambda part: part.memory.total_bytes / part.available_bytes,
    )
    facts = [
        fact("tokens/s", si(simulation.tokens_per_s), "predicted"),
        fact("step time", duration(simulation.step_s), "predicted"),
        fact("a billion tokens", _usd(money.usd_per_billion_tokens), "predicted", _priced(money)),
        fact(f"all {recipe.schedule.steps} steps", duration(money.training_hours * 3600),
             "predicted", f"{_usd(money.training_usd)} in all"),
        fact("chips that work", f"{len(plan.chips)} of {len(cluster.chips)}", "predicted",
             plural(len(plan.replicas), "replica")),
        fact("computing, mean of chips", percent(_mean_busy(plan)), "predicted"),
        fact("fullest chip", percent(_fullness(fullest)), "predicted",
             size_of(fullest.memory.total_bytes, fullest.available_bytes)),
        fact("an hour", _usd(money.usd_per_hour), "predicted", _priced(money)),
    ]  # fmt: skip
    return page_header(
        "motley plan", f"{recipe.name} on {cluster.name}", _in_short(plan, recipe), facts
    )


def _fullness(part: Part) -> float:
    return part.memory.total_bytes / part.available_bytes


def _mean_busy(plan: Plan) -> float:
    """Over chips; one that holds several stages counts once, with the sum of them."""
    stages = [stage for replica in plan.replicas for stage in replica.stages]
    busy = sum(len(stage.chips) * stage.busy_share for stage in stages)
    return busy / len(plan.chips)


def _usd(usd: float | None) -> str:
    return shown(usd, lambda value: f"{value:,.0f} USD" if value >= 100 else f"{value:.3g} USD")


def _priced(money: Money) -> str:
    if money.unknown_kinds:
        return f"no price of {', '.join(map(short, money.unknown_kinds))}"
    return "at the prices below"


def _in_short(plan: Plan, recipe: Recipe) -> str:
    model = recipe.model
    schedules = ", ".join(dict.fromkeys(replica.schedule for replica in plan.replicas))
    parts = [
        f"{model.layers} blocks of width {model.width}",
        f"{si(recipe.tokens_per_step)} tokens a step",
        f"{recipe.batch.global_batch} samples of {recipe.batch.sequence_length}",
        f"schedule {schedules}",
    ]
    return " · ".join(parts)


def _alerts(plan: Plan, copies: Sequence[Copies], palette: Palette) -> list[str]:
    alerts = [
        f"Does not fit: {palette.group(part.chips)} of {each.title} needs "
        f"{size(part.memory.total_bytes)} and has {size(part.available_bytes)}."
        for each in copies
        for part in each.parts
        if part.is_over
    ]
    if plan.planned_only:
        alerts.append(f"This can be planned, but 'motley train' does not execute it yet: "
                      f"{plan.planned_only}.")  # fmt: skip
    return alerts


def _step_words(simulation: Simulation) -> str:
    exposed = simulation.exposed_sync_s
    said = f"A step takes {duration(simulation.step_s)}."
    if exposed > 0:
        said += f" Exchanging gradients adds {duration(exposed)} after the last pass."
    return f"{said} It begins with the optimizer and ends with the last gradient."


def _frontier(points: Sequence[FrontierPoint] | None, plan: Plan, money: Money) -> Markup | None:
    if not points:
        return None
    return section(
        "frontier",
        "What time costs",
        frontier_section(points, plan, money),
        "No plan that was found beats one of these in both speed and cost.",
        "predicted",
    )


def _advice(sentences: Sequence[str]) -> Markup | None:
    if not sentences:
        return None
    items = tag("ul", *[tag("li", each) for each in sentences], class_="reasons")
    return section("advice", "What to train with this compute", items, "", "predicted")


def _footer() -> Markup:
    return tag(
        "footer",
        tag("p", "Made by motley plan."),
        tag(
            "p",
            "measured: timed on the chip. quoted: from a datasheet or a price list. predicted: "
            "computed from those. emulated: declared for a process that is held to it, so no real "
            f"chip's figure. What nobody said is {UNKNOWN}.",
        ),
    )
