"""Fits a cluster's times to what one short run measured, with as few numbers as it bears.

Each kind of chip gets one time scale: the median over steps of measured over predicted seconds of
its passes and its optimizer. If the step is then still longer or shorter than predicted, and
exchanges take enough of it to tell, one level of links (inside nodes or between them) gets the
bandwidth with which the prediction meets the measurement. Emulated chips and links are held to
their figures and stay as they are.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from motley.chips.chip import Chip, Link
from motley.cluster import LOOPBACK, Cluster
from motley.errors import ClusterError, ProbeError, RunFolderError
from motley.events import Event
from motley.plan.plan import Plan
from motley.plan.simulate import simulate
from motley.recipe import Recipe
from motley.units import percent

Level = Literal["inside nodes", "between nodes"]

WARM_UP_STEPS = 2
"""First steps that compile, allocate and connect, and are not counted."""

FEWEST_STEPS = 5
"""After those: a median of fewer can be an outlier."""

MOST_SPREAD = 0.15
"""Largest quarter-to-quarter range of a measured time, as a share of its median."""

TELLING_SHARE = 0.03
"""Of the step that half the bandwidth must change, for a run to tell a link's bandwidth."""

NARROWEST, WIDEST = 0.01, 2.0
"""Shares of a stated bandwidth among which the reached one is looked for."""

BISECTIONS = 40


@dataclass(frozen=True, kw_only=True)
class KindFit:
    """What was found of one kind of chip; seconds per step, medians."""

    kind: str
    num_chips: int
    emulated: bool
    predicted_s: float
    measured_s: float
    spread: float
    """Quarter-to-quarter range of the measured time, as a share of its median."""
    time_scale: float
    """The new one."""


@dataclass(frozen=True, kw_only=True)
class LinkFit:
    """The bandwidth that one level of links was found to reach."""

    level: Level
    share: float
    """Of the bandwidth that the cluster says."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    cluster: Cluster
    """With the fitted figures."""
    kinds: tuple[KindFit, ...]
    link: LinkFit | None
    notes: tuple[str, ...]
    """What was not fitted, and why."""
    num_steps: int
    measured_step_s: float
    before_step_s: float
    """Predicted with the figures that the cluster had."""
    after_step_s: float


@dataclass(frozen=True)
class Measured:
    """Seconds of the steps that count."""

    step_s: tuple[float, ...]
    busy_s: Mapping[str, tuple[float, ...]]
    """Of every chip: its passes and its optimizer."""


def measured(events: Sequence[Event]) -> Measured:
    """The steps of a run's events; `RunFolderError` if there are too few."""
    steps = [event for event in events if event["event"] == "step"]
    counted = steps[WARM_UP_STEPS:]
    if len(counted) < FEWEST_STEPS:
        raise RunFolderError(
            f"the run has {len(steps)} steps; {WARM_UP_STEPS} warm up, and a median of the other "
            f"{len(counted)} is not to be trusted.",
            remedy=f"Run {WARM_UP_STEPS + FEWEST_STEPS} steps at least.",
        )
    busy: dict[str, list[float]] = {}
    try:
        for event in counted:
            for chip in event["chips"]:
                busy.setdefault(chip["name"], []).append(chip["compute_s"] + chip["optimizer_s"])
        step_s = tuple(float(event["step_s"]) for event in counted)
    except (KeyError, TypeError, ValueError) as cause:
        raise RunFolderError(
            f"a step of the run lacks a figure: {cause!r}.", remedy="Calibrate with another run."
        ) from None
    return Measured(step_s, {name: tuple(times) for name, times in busy.items()})


def calibrate(events: Sequence[Event], plan: Plan, recipe: Recipe, cluster: Cluster) -> Calibration:
    """The cluster with the times of a run of this plan.

    Raises:
        RunFolderError: the run is too short, or lacks a figure.
        ProbeError: its times vary too much.
        ClusterError: the run used a chip that the cluster does not have.
    """
    found = measured(events)
    before = simulate(plan, recipe, cluster)
    stages = [place.stage for place in plan.placements()]
    predicted = {
        stage.chip: share * before.step_s
        for stage, share in zip(stages, before.busy_share, strict=True)
    }
    if predicted.keys() != found.busy_s.keys():
        raise ClusterError(
            "the run's chips are not those of its plan.", remedy="Calibrate with another run."
        )
    _require_steady("steps", found.step_s)
    kinds = _fit_kinds(cluster, predicted, found.busy_s)
    scales = {fit.kind: fit.time_scale for fit in kinds if not fit.emulated}
    scaled = _with_scales(cluster, scales)
    step_s = statistics.median(found.step_s)
    link, linked, note = _fit_links(plan, recipe, scaled, step_s)
    return Calibration(
        cluster=linked,
        kinds=kinds,
        link=link,
        notes=note,
        num_steps=len(found.step_s),
        measured_step_s=step_s,
        before_step_s=before.step_s,
        after_step_s=simulate(plan, recipe, linked).step_s,
    )


def spread_of(times: Sequence[float]) -> float:
    """Range from the first to the third quarter, as a share of the median."""
    low, middle, high = statistics.quantiles(times, n=4)
    return (high - low) / middle if middle else float("inf")


def _require_steady(what: str, times: Sequence[float]) -> None:
    spread = spread_of(times)
    if spread > MOST_SPREAD:
        raise ProbeError(
            f"the times of {what} vary by {percent(spread)} from quarter to quarter; above "
            f"{percent(MOST_SPREAD)} their median says too little.",
            remedy="End other work on the machine and run more steps.",
        )


def _fit_kinds(
    cluster: Cluster, predicted: Mapping[str, float], busy: Mapping[str, Sequence[float]]
) -> tuple[KindFit, ...]:
    members: dict[str, list[Chip]] = {}
    for name in predicted:
        chip = cluster.chip(name)
        members.setdefault(chip.kind, []).append(chip)
    fits = []
    for kind, chips in members.items():
        per_step = [
            statistics.fmean(times)
            for times in zip(*(busy[chip.name] for chip in chips), strict=True)
        ]
        expected = statistics.fmean(predicted[chip.name] for chip in chips)
        emulated = any(chip.emulated for chip in chips)
        if not emulated:
            _require_steady(f"'{kind}'", per_step)
        middle = statistics.median(per_step)
        scale = 1.0 if emulated else chips[0].time_scale * middle / expected
        fits.append(
            KindFit(
                kind=kind,
                num_chips=len(chips),
                emulated=emulated,
                predicted_s=expected,
                measured_s=middle,
                spread=spread_of(per_step),
                time_scale=scale,
            )
        )
    return tuple(fits)


def _with_scales(cluster: Cluster, scales: Mapping[str, float]) -> Cluster:
    """All chips of the fitted kinds, those too that the run did not use."""
    chips = tuple(
        dataclasses.replace(chip, time_scale=scales[chip.kind])
        if chip.kind in scales and not chip.emulated
        else chip
        for chip in cluster.chips
    )
    return dataclasses.replace(cluster, chips=chips)


def _fit_links(
    plan: Plan, recipe: Recipe, cluster: Cluster, step_s: float
) -> tuple[LinkFit | None, Cluster, tuple[str, ...]]:
    """The level of links that explains the rest of the step, if one does."""
    levels = _levels(cluster, plan)
    if not levels:
        return None, cluster, ("Links: the run used none that is not emulated.",)

    def seconds(level: Level, share: float) -> float:
        return simulate(plan, recipe, _with_share(cluster, level, share)).step_s

    whole = {level: seconds(level, 1.0) for level in levels}
    changes = {level: seconds(level, 0.5) - whole[level] for level in levels}
    level = max(levels, key=lambda each: changes[each])
    if changes[level] < TELLING_SHARE * step_s:
        share = percent(changes[level] / step_s)
        text = f"Links: half their bandwidth would change the step by {share}: too little to tell."
        return None, cluster, (text,)
    if not seconds(level, WIDEST) <= step_s <= seconds(level, NARROWEST):
        text = f"Links: no bandwidth {level} explains the measured step; they stay as they are."
        return None, cluster, (text,)
    narrow, wide = NARROWEST, WIDEST
    for _ in range(BISECTIONS):
        middle = (narrow * wide) ** 0.5
        narrow, wide = (narrow, middle) if seconds(level, middle) < step_s else (middle, wide)
    others = [f"Links {each}: not told apart from those {level}." for each in levels - {level}]
    fit = LinkFit(level=level, share=narrow)
    return fit, _with_share(cluster, level, narrow), tuple(others)


def _levels(cluster: Cluster, plan: Plan) -> set[Level]:
    """Levels of links between the plan's chips that are not emulated."""
    return {
        _level_of(cluster, first, second)
        for first, second in combinations(plan.chips, 2)
        if not cluster.link(first, second).emulated
    }


def _level_of(cluster: Cluster, first: str, second: str) -> Level:
    same = cluster.chip(first).node == cluster.chip(second).node
    return "inside nodes" if same else "between nodes"


def _with_share(cluster: Cluster, level: Level, share: float) -> Cluster:
    """Every link of a level with that share of its bandwidth, measured."""
    nodes = {name: chip.node for chip in cluster.chips for name in (chip.name, chip.node)}
    links = cluster.links
    if not any(_is_of(link, level, nodes) for link in links):
        links = (*links, _assumed(cluster, level, links))
    return dataclasses.replace(
        cluster,
        links=tuple(
            dataclasses.replace(
                link,
                bandwidth_bytes_per_s=link.bandwidth_bytes_per_s * share,
                source="measured",
                origin=None,
            )
            if _is_of(link, level, nodes) and not link.emulated
            else link
            for link in links
        ),
    )


def _is_of(link: Link, level: Level, nodes: Mapping[str, str]) -> bool:
    first, second = (nodes.get(name) for name in link.between)
    if link.between == ("*", "*"):
        return len(set(nodes.values())) == 1 or level == "between nodes"
    inside = first is not None and first == second
    return inside == (level == "inside nodes")


def _assumed(cluster: Cluster, level: Level, links: Sequence[Link]) -> Link:
    """The link that is assumed where the cluster's file says nothing."""
    if level == "between nodes" or len(cluster.nodes) == 1:
        return dataclasses.replace(LOOPBACK, between=("*", "*"))
    node = next(node.name for node in cluster.nodes.values() if node.num_chips > 1)
    return dataclasses.replace(LOOPBACK, between=(node, node))
