"""A plan as people read it: tables for the terminal, and the same figures as plain data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from motley.cluster import Cluster
from motley.plan.explain.narrow import TableOrLines
from motley.plan.explain.shares import speed_shares, work_shares
from motley.plan.plan import Placement, Plan
from motley.recipe import Recipe
from motley.units import duration, percent, si, size_of

MOST_IDLE_SHOWN = 8

NEARLY_FULL = 0.95
"""Memory use above this share is coloured."""


def render(plan: Plan, recipe: Recipe, cluster: Cluster) -> RenderableType:
    """The chosen split, its reasons, and what lost against it; narrow terminals
    get more lines, and lose no figure."""
    parts: list[RenderableType] = [
        _headline(plan, recipe),
        "",
        _chip_table(plan, recipe, cluster),
        _sources(cluster),
    ]
    if plan.reasons:
        parts += ["", Text("Why", style="bold"), *listed(plan.reasons)]
    if plan.rejected:
        parts += ["", Text("Rejected", style="bold"), _rejected_table(plan)]
    return Group(*parts)


def to_json(plan: Plan, recipe: Recipe, cluster: Cluster) -> dict[str, Any]:
    """The plan's own fields, and each chip's shares of work and speed."""
    work, speed = work_shares(plan, recipe), speed_shares(cluster.chips)
    return {
        **plan.to_dict(),
        "source": "predicted",
        "chips": {
            chip.name: {
                "work_share": work.get(chip.name, 0.0),
                "speed_share": speed[chip.name],
                "source": chip.source,
            }
            for chip in cluster.chips
        },
    }


def _headline(plan: Plan, recipe: Recipe) -> Text:
    replicas = len(plan.replicas)
    copies = "1 replica" if replicas == 1 else f"{replicas} replicas"
    count = len(plan.chips)
    chips = "1 chip" if count == 1 else f"{count} chips"
    return Text.assemble(
        (f"{si(plan.tokens_per_s)} tokens/s", "bold"),
        f", {duration(plan.step_s)} a step of {recipe.tokens_per_step} tokens (predicted): ",
        f"{copies} on {chips}",
    )


def _chip_table(plan: Plan, recipe: Recipe, cluster: Cluster) -> TableOrLines:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("chip", overflow="fold", max_width=16)
    table.add_column("layers", overflow="fold", min_width=7)
    for title in ("samples", "work", "speed", "memory", "busy"):
        is_share = title in ("work", "speed", "busy")
        table.add_column(title, justify="right", no_wrap=is_share, overflow="fold", min_width=6)
    has_pipelines = plan.world_size > len(plan.replicas)
    busy, idle = list(_busy_rows(plan, recipe, cluster)), list(_idle_rows(plan, cluster))
    for row, placement in zip(busy, plan.placements(), strict=True):
        table.add_row(*row, end_section=has_pipelines and placement.is_last)
    for row in idle:
        table.add_row(*row)
    return TableOrLines(table, busy + idle)


def _busy_rows(plan: Plan, recipe: Recipe, cluster: Cluster) -> Iterator[list[Text]]:
    work, speed = work_shares(plan, recipe), speed_shares(cluster.chips)
    for placement in plan.placements():
        stage = placement.stage
        yield [
            Text(stage.label, style="bold"),
            Text(_layers(placement)),
            Text(_samples(placement) if placement.is_first else ""),
            Text(percent(sum(work[chip] for chip in stage.chips))),
            Text(percent(sum(speed[chip] for chip in stage.chips))),
            _memory(placement),
            Text(percent(stage.busy_share)),
        ]


def _idle_rows(plan: Plan, cluster: Cluster) -> Iterator[list[Text]]:
    speed = speed_shares(cluster.chips)
    shown, more = plan.idle_chips[:MOST_IDLE_SHOWN], plan.idle_chips[MOST_IDLE_SHOWN:]
    idle = [(name, speed[name]) for name in shown]
    if more:
        idle.append((f"{len(more)} more", sum(speed[name] for name in more)))
    for name, share in idle:
        cells = ["idle", "", "", percent(share), "", ""]
        yield [Text(name, style="dim"), *map(Text, cells)]


def _sources(cluster: Cluster) -> Text:
    """Where the table's figures come from."""
    sources = ", ".join(sorted({chip.source for chip in cluster.chips}))
    return Text(f"Work, memory and busy are predicted; speed is {sources}.", style="dim")


def _layers(placement: Placement) -> str:
    stage = placement.stage
    marks = []
    if stage.tensor > 1:
        marks.append(f"tp{stage.tensor}")
    if stage.expert > 1:
        marks.append(f"ep{stage.expert}")
    if stage.data > 1:
        marks.append({"none": "dp", "optimizer": "zero", "full": "fsdp"}[stage.sharding])
        marks[-1] += str(stage.data)
    if stage.recompute != "none":
        marks.append("recompute" if stage.recompute == "full" else "selective")
    return " ".join([f"{stage.first_layer}-{stage.last_layer - 1}", *marks])


def _samples(placement: Placement) -> str:
    replica = placement.replica
    if replica.num_samples == replica.micro_batch_size:
        return str(replica.num_samples)
    return f"{replica.num_samples} by {replica.micro_batch_size}"


def _memory(placement: Placement) -> Text:
    stage = placement.stage
    full = stage.memory_bytes > NEARLY_FULL * stage.available_bytes
    text = size_of(stage.memory_bytes, stage.available_bytes)
    return Text(text, style="yellow" if full else "")


def listed(sentences: Sequence[str]) -> list[RenderableType]:
    """Sentences, indented and wrapped."""
    return [Padding(Text(sentence), (0, 0, 0, 2)) for sentence in sentences]


def _rejected_table(plan: Plan) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=True, show_header=False)
    table.add_column(ratio=3, overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(ratio=3, overflow="fold")
    for rejected in plan.rejected:
        step = "-" if rejected.step_s is None else duration(rejected.step_s)
        table.add_row(rejected.split, step, rejected.reason)
    return table
