"""`motley ablate`: variants of a recipe on the user's own text, and which differences are real.

Every run is an ordinary one in a folder of its own, so the same command goes on where it was
stopped, and `motley report` shows any of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from motley.ablation import (
    BASE,
    Interval,
    Outcome,
    Row,
    Task,
    Variant,
    compare,
    from_settings,
    load_ladder,
    recipes_of,
    tasks_of,
    train_all,
    without_each,
)
from motley.cli.output import print_json, say
from motley.cli.planning import cluster_for, show
from motley.cli.training import watch
from motley.errors import InputError
from motley.plan.explain.narrow import TableOrLines
from motley.recipe import Recipe, load_recipe
from motley.report.ablation_page import write_ablation_page
from motley.train.folder import RunFolder
from motley.train.launch import start


def run(
    recipe_file: Path,
    settings: Sequence[str],
    ladder_file: Path | None,
    seeds: int,
    cluster_file: Path | None,
    out: Path | None,
    *,
    as_json: bool,
) -> None:
    """Trains, prints, writes the page; what has finished stays when it is stopped."""
    recipe = load_recipe(recipe_file)
    variants = _variants(recipe, settings, ladder_file)
    folder = out or Path("runs") / f"{recipe.name}-ablation"
    recipes = recipes_of(recipe, variants)
    tasks = tasks_of(recipes, range(recipe.seed, recipe.seed + seeds), folder)
    outcomes, stopped = _train(tasks, cluster_file)
    rows = compare(outcomes, list(recipes))
    if rows:
        say(f"The page: {write_ablation_page(folder, recipe.name, rows, outcomes)}")
    if as_json:
        print_json({"folder": str(folder), "stopped": stopped, "variants": list(map(_data, rows))})
    elif rows:
        show(_table(rows))
        say(_reading(rows))
    if stopped:
        say(f"Stopped after {len(outcomes)} of {len(tasks)} runs. The same command goes on.")


def _variants(
    recipe: Recipe, settings: Sequence[str], ladder_file: Path | None
) -> tuple[Variant, ...]:
    """What was asked for, or else the recipe without each of its techniques."""
    if settings and ladder_file is not None:
        raise InputError(
            "--set and --ladder are two ways to say what varies.",
            remedy="Give --set key=value (once for each variant), or --ladder FILE.",
        )
    if settings:
        return from_settings(settings)
    if ladder_file is not None:
        return load_ladder(ladder_file)
    variants = without_each(recipe, say)
    say(f"Nothing was said to vary, so {len(variants)} techniques of the recipe are left out, each "
        "alone. --set key=value or --ladder FILE varies something else.")  # fmt: skip
    return variants


def _train(tasks: Sequence[Task], cluster_file: Path | None) -> tuple[list[Outcome], bool]:
    """The finished runs, and whether the user stopped before the last."""
    outcomes: list[Outcome] = []
    cluster = cluster_for(cluster_file)
    try:
        for outcome in train_all(tasks, cluster, _train_one, say):
            if outcome is None:
                return outcomes, True
            outcomes.append(outcome)
            say(f"  {outcome.bits_per_byte:.4f} bits per byte.")
    except KeyboardInterrupt:
        return outcomes, True
    return outcomes, False


def _train_one(folder: RunFolder) -> None:
    watch(start(folder), "the same command", quiet=True)


def _data(row: Row) -> dict[str, Any]:
    """A row as plain data; JSON has no infinity, so a diverged variant's mean is null."""
    table = dataclasses.asdict(row)
    return {**table, "mean": row.mean if math.isfinite(row.mean) else None}


def _table(rows: Sequence[Row]) -> TableOrLines:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    table.add_column("variant", overflow="fold", min_width=10)
    for title in ("seeds", "bits/byte, 95 %", "difference, 95 %", "FLOPs", "time"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    lines = [_cells(row) for row in rows]
    for line in lines:
        table.add_row(*line)
    return TableOrLines(table, lines)


def _cells(row: Row) -> list[Text]:
    difference = row.difference
    ratios = (f"{ratio:.2f}x" if ratio else "" for ratio in (row.flops_ratio, row.time_ratio))
    texts = [
        row.variant,
        str(len(row.seeds)),
        f"{row.mean:.4f}{_half(row.interval)}",
        f"{difference.mean:+.4f}{_half(difference)}" if difference else "",
        *ratios,
        "" if row.verdict in ("base", "no claim") else row.verdict,
    ]
    return [Text(text) for text in texts]


def _half(interval: Interval | None) -> str:
    return f" ± {interval.half_width:.4f}" if interval else ""


def _reading(rows: Sequence[Row]) -> str:
    lost = {row.variant for row in rows if row.verdict == "diverged"}
    if BASE in lost:
        return (
            "Nothing can be compared: the recipe itself diverged. Lower its learning rates first."
        )
    if lost and len(lost) == len(rows) - 1:
        return "Nothing can be compared: every variant diverged. Lower their learning rates first."
    if all(len(row.seeds) == 1 for row in rows):
        return "With one seed no difference can be told from noise: give --seeds 3 or more."
    return (
        "measured; lower is better. noise: the 95 % interval of the difference holds zero. FLOPs "
        "(counted) and time are those of the recipe itself times so much."
    )
