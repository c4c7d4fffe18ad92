"""What the planner's predictions are worth.

    python benchmarks/planner.py --json

The table part predicts every published training with constants that were fitted without its
repository (`planner_held_out.csv`, by `fit_planner.py`) and prints the errors by source, cold and
after one row of the source has set one scalar, the order of the rows (Spearman), the rows that are
furthest off, and how many were skipped for which reason. The memory part is that of
`planner_memory.py`; --tracker adds PyTorch's trackers, some minutes. With --write the error band
goes to `src/motley/plan/errors.csv`, which the package ships and prints beside its predictions.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

from motley.chips.constants import CONSTANTS, Constants
from motley.plan.published.rows import PublishedTable
from planner_emulated import emulated_part
from planner_memory import published_part, tracker_part
from planner_search import MOST_CHIPS, NUM_CLUSTERS, optimality, searches
from planner_table import (
    Scored,
    by_source,
    calibrated_errors,
    load,
    repository_of,
    scored,
    spearman,
)

ROOT = Path(__file__).resolve().parents[1]
HELD_OUT_FILE = ROOT / "benchmarks/planner_held_out.csv"
ERRORS_FILE = ROOT / "src/motley/plan/errors.csv"
TABLE_FILE = ROOT / "benchmarks/published_throughput.csv"

MIXED = "AMP src/results/het_cluster"
"""The source whose rows run on unlike chips together."""

FEWEST_TO_RANK = 4
"""Rows of a source from which their order says something."""

WORST = 12
"""Rows that are named."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, default=TABLE_FILE)
    parser.add_argument(
        "--tracker", action="store_true", help="Memory under PyTorch's trackers too."
    )
    parser.add_argument("--quick", action="store_true", help="Leave out the search.")
    parser.add_argument("--emulated", action="store_true", help="Emulated clusters too: 10 min.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object at the end.")
    parser.add_argument("--write", action="store_true", help="Write the shipped error band.")
    arguments = parser.parse_args()
    result = table_part(arguments.table) | published_part(arguments.table)
    if not arguments.quick:
        result |= optimality(NUM_CLUSTERS) | searches(MOST_CHIPS)
    if arguments.tracker:
        result |= tracker_part()
    if arguments.emulated:
        result |= emulated_part()
    if arguments.write:
        write_errors(result, arguments.table.name)
    if arguments.json:
        print(json.dumps(result))


def table_part(path: Path) -> dict[str, Any]:
    """Scores of the time model on a table of published trainings; prints as it goes."""
    began = time.process_time()
    table = load(path)
    held_out = held_out_constants()
    per_row = {
        repository_of(row): held_out.get(repository_of(row), CONSTANTS) for row in table.rows
    }
    rows, skipped = scored(table, per_row)
    print(f"{len(rows)} of {len(table.rows)} rows have a measured step and are predicted.")
    for reason, count in Counter(reason for _, reason in skipped).most_common():
        print(f"  {count:4d} skipped: {reason}")
    sources = by_source(rows)
    ranks = {name: rank(group) for name, group in sources.items() if len(group) >= FEWEST_TO_RANK}
    for name, group in sources.items():
        print_source(name, group, ranks.get(name))
    print("Furthest off:")
    for each in sorted(rows, key=lambda one: -abs(one.ratio - 1))[:WORST]:
        print(f"  line {each.row.line}: {describe(each)}")
    calibrated = [error for group in sources.values() for error in calibrated_errors(group)]
    errors = sorted(each.error for each in rows)
    mixed = [rank for name, rank in ranks.items() if MIXED in name]
    by_group = [statistics.median(each.error for each in group) for group in sources.values()]
    foreign = unseen_frameworks(table, per_row)
    return {
        "rows": len(table.rows),
        "predicted": len(rows),
        "skipped": len(skipped),
        "median_error_cold": round(statistics.median(errors), 4),
        "p90_error_cold": round(errors[int(0.9 * len(errors))], 4),
        "median_error_cold_over_sources": round(statistics.median(by_group), 4),
        "median_error_calibrated": round(statistics.median(calibrated), 4),
        "spearman_median": round(statistics.median(ranks.values()), 4),
        "spearman_amp_mixed": round(mixed[0], 4) if mixed else None,
        "median_error_unseen_framework": foreign,
        "table_cpu_s": round(time.process_time() - began, 2),
    }


def unseen_frameworks(table: PublishedTable, constants: dict[str, Constants]) -> float:
    """The median error with each row's framework unknown, and its repository unseen; prints."""
    rows, _ = scored(table, constants, known_framework=False)
    print("With every framework unknown (median error; predicted/measured):")
    for name, group in by_source(rows).items():
        error = statistics.median(each.error for each in group)
        print(
            f"  {100 * error:5.1f} %  {statistics.median(each.ratio for each in group):.2f}  {name}"
        )
    return round(statistics.median(each.error for each in rows), 4)


def held_out_constants() -> dict[str, Constants]:
    """By repository: the constants that were fitted without it."""
    with HELD_OUT_FILE.open(encoding="utf-8", newline="") as file:
        return {
            row.pop("without"): Constants(**{name: float(value) for name, value in row.items()})
            for row in csv.DictReader(file)
        }


def rank(group: list[Scored]) -> float:
    """Spearman's rank correlation of measured and predicted step times within a source."""
    return spearman([each.measured_s for each in group], [each.predicted_s for each in group])


def print_source(name: str, group: list[Scored], correlation: float | None) -> None:
    ratios = sorted(each.ratio for each in group)
    calibrated = calibrated_errors(group)
    parts = [
        f"{len(group):4d} rows",
        f"cold {100 * statistics.median(each.error for each in group):5.1f} %",
        f"calibrated {100 * statistics.median(calibrated):5.1f} %" if calibrated else " " * 18,
        f"predicted/measured {ratios[0]:.2f} {statistics.median(ratios):.2f} {ratios[-1]:.2f}",
        f"Spearman {correlation:.3f}" if correlation is not None else "",
    ]
    print(f"{name}\n   " + "  ".join(parts))


def describe(each: Scored) -> str:
    row = each.row
    return (
        f"{row.model} on {row.n_chips} x {row.chip} (tp {row.tp}, pp {row.pp}, dp {row.dp}): "
        f"measured {each.measured_s:.3g} s, predicted {each.predicted_s:.3g} s "
        f"({100 * (each.ratio - 1):+.0f} %)"
    )


def write_errors(result: dict[str, Any], table: str) -> None:
    """The error band that the package ships."""
    source = (
        f"benchmarks/planner.py on {table}: {result['predicted']} published trainings, constants "
        "fitted without the row's repository"
    )
    with ERRORS_FILE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", "value", "source"])
        for name in ("median_error_cold", "p90_error_cold", "median_error_calibrated"):
            writer.writerow([name, result[name], source])


if __name__ == "__main__":
    main()
