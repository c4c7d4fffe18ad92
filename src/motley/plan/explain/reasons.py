"""Why a plan is as it is: shares, pipelines, layouts, what binds it, who is left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from motley.cluster import LOOPBACK, Cluster
from motley.plan.explain.rejected import NOTABLE
from motley.plan.explain.shares import (
    MOST_NAMED,
    called,
    counted,
    listed,
    speed_shares,
    work_shares,
)
from motley.plan.memory.stage import stage_memory
from motley.plan.plan import Plan, Replica, Stage
from motley.plan.search.blocks import block_of, library_link_bytes_per_s
from motley.plan.search.build import Built
from motley.plan.stack import MOTLEY, Stack
from motley.plan.validate import stage_needs
from motley.recipe import Recipe
from motley.units import duration, percent, size

EQUAL_SHARES = 0.005
"""Shares that differ by less read the same."""

MOST_ALIKE = 3
"""Sentences of one sort."""

LITTLE_MORE = 0.98
"""A chip as full as this has no room for less recompute or larger micro-batches."""


def explain_choice(chosen: Built, recipe: Recipe, cluster: Cluster, stack: Stack = MOTLEY) -> Plan:
    """The plan with its reasons."""
    plan = chosen.plan
    reasons = [
        _why_shares(plan, recipe, cluster),
        *_first(_why_pipelines(plan, recipe, cluster, stack)),
        *_first(_layouts_in_words(plan)),
        *_what_binds(chosen, cluster),
        *_first(_why_recompute(plan, recipe, cluster, stack)),
        *_why_idle(plan, cluster),
        *_assumed_links(plan, cluster),
    ]
    return dataclasses.replace(plan, reasons=tuple(reasons))


def _start(words: str) -> str:
    return words[0].upper() + words[1:]


def _first(sentences: Iterator[str]) -> Iterator[str]:
    """A few of the sentences, each once, and how many more there are."""
    known = list(dict.fromkeys(sentences))
    yield from known[:MOST_ALIKE]
    if len(known) > MOST_ALIKE:
        yield f"The same holds for {len(known) - MOST_ALIKE} more."


def _why_shares(plan: Plan, recipe: Recipe, cluster: Cluster) -> str:
    if len(plan.chips) == 1:
        return f"Chip {plan.chips[0]} does all the work."
    work, speed = work_shares(plan, recipe), speed_shares(cluster.chips)
    by_kind: dict[str, tuple[float, float]] = {}
    few = len(work) <= MOST_NAMED * 2
    for name, share in work.items():
        key = f"chip {name}" if few else cluster.chip(name).kind
        known = by_kind.get(key, (0.0, 0.0))
        by_kind[key] = known[0] + share, known[1] + speed[name]
    name, (done, able) = max(by_kind.items(), key=lambda each: (abs(each[1][0] - each[1][1]), each))
    if abs(done - able) < EQUAL_SHARES:
        whose = "chip" if few else "kind"
        return f"Every {whose}'s share of the work is its share of the speed."
    return (
        f"Work follows speed: the largest difference is {name}, with {percent(done)} "
        f"of the work and {percent(able)} of the speed."
    )


def _why_pipelines(plan: Plan, recipe: Recipe, cluster: Cluster, stack: Stack) -> Iterator[str]:
    for replica in plan.replicas:
        groups = {stage.label: stage for stage in reversed(replica.stages)}
        names = list(reversed(groups))
        if len(names) < 2:
            continue
        alone = [name for name in names if _fits_alone(groups[name], cluster, recipe, stack)]
        if not alone:
            why = "the whole model fits none of them alone"
        elif len(alone) < len(names):
            why = f"the whole model fits only {' and '.join(alone[:MOST_NAMED])} alone"
        else:
            why = "the step is shorter than with a replica on each"
        chips = [cluster.chip(chip) for stage in groups.values() for chip in stage.chips]
        one_each = all(len(stage.chips) == 1 for stage in groups.values())
        who = ", ".join(names) if len(names) <= MOST_NAMED else counted(reversed(chips))
        who = f"Chips {who}" if one_each and len(names) <= MOST_NAMED else who
        yield f"{who} form a pipeline{_scheduled(replica)}: {why}."


def _scheduled(replica: Replica) -> str:
    if replica.schedule == "1f1b":
        return ""
    turns = len(replica.stages) // len({stage.chips for stage in replica.stages})
    if replica.schedule == "interleaved":
        return f" of {turns} interleaved stages each, which shortens what fills and drains it"
    return " with a zero-bubble schedule, whose weight gradients fill the gaps"


def _fits_alone(stage: Stage, cluster: Cluster, recipe: Recipe, stack: Stack) -> bool:
    need = stage_memory(
        recipe.model,
        recipe.batch.sequence_length,
        stage.precision,
        (0, recipe.model.num_layers),
        num_in_flight=1,
        micro_batch_size=stage.data,
        layout=stage.layout._replace(recompute="full"),
        stack=stack,
        link_bytes_per_s=library_link_bytes_per_s(block_of(cluster, stage.chips)),
        recipe=recipe,
    )
    return need.total_bytes <= cluster.chip(stage.chip).memory_bytes


def _layouts_in_words(plan: Plan) -> Iterator[str]:
    for replica in plan.replicas:
        for stage in replica.stages:
            if len(stage.chips) > 1:
                yield f"{stage.label} share each stage: {_layout_in_words(stage)}."


def _layout_in_words(stage: Stage) -> str:
    parts = []
    if stage.tensor > 1:
        parts.append(f"every layer is split over {stage.tensor} chips (tensor parallel)")
    if stage.data > 1:
        kept = {
            "none": "with all parameters each",
            "optimizer": "that share out the optimizer's state (ZeRO-1)",
            "full": "that share out all parameters (FSDP)",
        }
        parts.append(f"{stage.data} members share the samples, {kept[stage.sharding]}")
    if stage.expert > 1:
        parts.append(f"the experts are spread over {stage.expert}")
    return "; ".join(parts)


def _what_binds(chosen: Built, cluster: Cluster) -> Iterator[str]:
    """Compute, a link, or memory, by name."""
    plan = chosen.plan
    stages = [placement.stage for placement in plan.placements()]
    exposed = chosen.exposed_s / plan.step_s
    busiest = max(stages, key=lambda stage: stage.busy_share)
    if exposed > NOTABLE and exposed > 1 - busiest.busy_share - exposed:
        yield (
            f"Links bind: exchanging gradients adds {duration(chosen.exposed_s)} after the last "
            f"pass, {percent(exposed)} of the step{_narrowest(stages, cluster)}."
        )
    text = f"Compute binds: {called(busiest)} is busy {percent(busiest.busy_share)} of the step"
    if busiest.busy_share < 1 - 4 * NOTABLE and exposed <= NOTABLE:
        text += "; the rest is waiting for other stages and links"
    yield text + "."
    full = [each for each in stages if each.memory_bytes > LITTLE_MORE * each.available_bytes]
    if full:
        yield (
            f"Memory binds: {called(full[0])} needs {size(full[0].memory_bytes)} of "
            f"{size(full[0].available_bytes)}."
        )


def _narrowest(stages: list[Stage], cluster: Cluster) -> str:
    """Between which chips the slowest path is."""
    names = list(dict.fromkeys(stage.chip for stage in stages))[:64]
    pairs = [(a, b) for place, a in enumerate(names) for b in names[place + 1 :]]
    if not pairs:
        return ""
    first, second = min(pairs, key=lambda pair: cluster.link(*pair).bandwidth_bytes_per_s)
    rate = cluster.link(first, second).bandwidth_bytes_per_s / 1e9
    return f"; the narrowest path, {first} to {second}, moves {rate:.3g} GB/s"


def _why_recompute(plan: Plan, recipe: Recipe, cluster: Cluster, stack: Stack) -> Iterator[str]:
    seen = set()
    for replica in plan.replicas:
        if all(stage.recompute == "none" for stage in replica.stages):
            continue
        key = (
            replica.micro_batch_size,
            *((stage.layers, stage.layout, stage.available_bytes) for stage in replica.stages),
        )
        if key in seen:
            continue
        seen.add(key)
        without = dataclasses.replace(
            replica,
            stages=tuple(dataclasses.replace(stage, recompute="none") for stage in replica.stages),
        )
        needs = stage_needs(without, recipe, cluster, stack=stack)
        for stage, need in zip(replica.stages, needs, strict=True):
            if stage.recompute != "none" and need > stage.available_bytes:
                what = "activations" if stage.recompute == "full" else "the attention's inside"
                verb = "recomputes" if len(stage.chips) == 1 else "recompute"
                yield (
                    f"{_start(called(stage))} {verb} {what}: without, it would need {size(need)} "
                    f"and has {size(stage.available_bytes)}."
                )


def _why_idle(plan: Plan, cluster: Cluster) -> Iterator[str]:
    if not plan.idle_chips:
        return
    speed = speed_shares(cluster.chips)
    share = percent(sum(speed[name] for name in plan.idle_chips))
    verb = "is" if len(plan.idle_chips) == 1 else "are"
    names = listed(plan.idle_chips)
    if len(plan.idle_chips) > MOST_NAMED:
        names = counted(cluster.chip(name) for name in plan.idle_chips)
    yield f"{names} ({share} of the speed) {verb} idle: no split found with more is better."


def _assumed_links(plan: Plan, cluster: Cluster) -> Iterator[str]:
    nodes: dict[str, list[str]] = {}
    for name in plan.chips:
        nodes.setdefault(cluster.chip(name).node, []).append(name)
    names = [name for beside in list(nodes.values())[:16] for name in beside[:2]]
    assumed = any(
        cluster.link(first, second).source == LOOPBACK.source
        for index, first in enumerate(names)
        for second in names[index + 1 :]
    )
    if assumed:
        rate = LOOPBACK.bandwidth_bytes_per_s / 1e9
        yield f"Links that the cluster does not give are assumed to move {rate:.3g} GB/s."
