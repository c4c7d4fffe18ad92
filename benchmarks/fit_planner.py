"""Fits the time model's constants to published trainings, and once without each repository.

    python benchmarks/fit_planner.py

Writes `src/motley/chips/constants.csv` (all rows) and `benchmarks/planner_held_out.csv` (one line
per repository: the constants that were fitted without it, which `benchmarks/planner.py` judges by).
Takes about ten minutes on one core.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import math
from pathlib import Path

from motley.chips.constants import Constants
from motley.plan.published.rows import PublishedRow, PublishedTable
from planner_table import load, repository_of, scored, source_of

ROOT = Path(__file__).resolve().parents[1]
CONSTANTS_FILE = ROOT / "src/motley/chips/constants.csv"
TABLE_FILE = ROOT / "benchmarks/published_throughput.csv"
HELD_OUT_FILE = ROOT / "benchmarks/planner_held_out.csv"

PRIORS: dict[str, tuple[float, float, float]] = {
    "matmul_share": (0.85, 0.7, 1.0),
    "lost_waves": (0.5, 0.0, 1.0),
    "misaligned_share": (0.2, 0.08, 1.0),
    "ragged_share": (0.85, 0.6, 1.0),
    "flash_share": (0.9, 0.5, 1.2),
    "fp8_share": (0.8, 0.5, 1.0),
    "fp8_row_share": (0.45, 0.3, 0.8),
    "fp8_fused_share": (0.9, 0.8, 1.0),
    "memory_share": (0.75, 0.5, 0.95),
    "kernel_s": (3e-6, 1e-6, 8e-6),
    "launch_s": (8e-6, 4e-6, 2e-5),
    "link_share": (0.7, 0.4, 0.95),
    "network_share": (0.8, 0.45, 0.95),
    "staged_share": (0.4, 0.2, 0.8),
    "pcie_share": (0.3, 0.15, 0.6),
    "socket_share": (0.5, 0.3, 0.9),
    "collective_s": (3e-5, 1e-5, 2e-4),
    "tensor_hidden": (0.5, 0.2, 0.9),
    "overlap_slowdown": (0.2, 0.0, 0.5),
    "power_exponent": (0.5, 0.33, 1.0),
}
"""What physics and other measurements say, and the range beyond which a constant would mean
something else."""

PRIOR_WEIGHT = 0.002
"""Of the squared distance to the prior, in parts of its range, against the mean error."""

ROWS_PER_SOURCE = 24
"""Rows of a source that take part in a fit, evenly spread; the others would only repeat them."""

STEPS = (0.3, 0.12, 0.05)
"""Of the range, in which each constant is tried up and down; until none helps. The fits without a
repository start from the priors too, so that nothing of it is left in them, and leave out the
smallest steps."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, default=TABLE_FILE)
    arguments = parser.parse_args()
    table = load(arguments.table)
    sample = sample_of(table)
    start = Constants(**{name: prior for name, (prior, _, _) in PRIORS.items()})
    whole = fit(table, sample, start)
    write_constants(whole)
    repositories = sorted({repository_of(row) for row in sample})
    held_out = {}
    for repository in repositories:
        others = [row for row in sample if repository_of(row) != repository]
        held_out[repository] = fit(table, others, start, STEPS[:2])
        print(f"without {repository}: {loss(table, others, held_out[repository]):.4f}", flush=True)
    write_held_out(held_out)


def sample_of(table: PublishedTable) -> list[PublishedRow]:
    """Rows with a truth that can be predicted, a few of each source."""
    groups: dict[str, list[PublishedRow]] = {}
    for each in scored(table)[0]:
        groups.setdefault(source_of(each.row), []).append(each.row)
    rows = []
    for group in groups.values():
        step = max(1.0, len(group) / ROWS_PER_SOURCE)
        count = min(len(group), ROWS_PER_SOURCE)
        rows += [group[int(position * step)] for position in range(count)]
    return rows


def loss(table: PublishedTable, rows: list[PublishedRow], constants: Constants) -> float:
    """Mean over sources of the mean |log(predicted / measured)|, the larger errors bent, sources
    weighted by the root of their rows; and the distance to the priors."""
    groups: dict[str, list[float]] = {}
    for each in scored(table, constants, rows)[0]:
        error = abs(math.log(each.ratio))
        groups.setdefault(source_of(each.row), []).append(min(error, 0.1 + 0.5 * error))
    weights = {name: math.sqrt(len(errors)) for name, errors in groups.items()}
    total = sum(weights[name] * math.fsum(errors) / len(errors) for name, errors in groups.items())
    distance: float = sum(
        ((getattr(constants, name) - prior) / (high - low)) ** 2
        for name, (prior, low, high) in PRIORS.items()
    )
    return total / sum(weights.values()) + PRIOR_WEIGHT * distance


def fit(
    table: PublishedTable,
    rows: list[PublishedRow],
    start: Constants,
    steps: tuple[float, ...] = STEPS,
) -> Constants:
    """Pattern search: each constant up and down, with smaller and smaller steps."""
    best, best_loss = start, loss(table, rows, start)
    for step in steps:
        improved = True
        while improved:
            improved = False
            for name, (_, low, high) in PRIORS.items():
                for sign in (1.0, -1.0):
                    value = getattr(best, name) + sign * step * (high - low)
                    trial = dataclasses.replace(best, **{name: min(high, max(low, value))})
                    if trial == best:
                        continue
                    trial_loss = loss(table, rows, trial)
                    if trial_loss < best_loss - 1e-5:
                        best, best_loss, improved = trial, trial_loss, True
                        break
    return best


def write_constants(constants: Constants) -> None:
    """The values into `constants.csv`, whose other columns stay."""
    with CONSTANTS_FILE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with CONSTANTS_FILE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({**row, "value": f"{getattr(constants, row['name']):.4g}"})


def write_held_out(held_out: dict[str, Constants]) -> None:
    names = list(PRIORS)
    with HELD_OUT_FILE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["without", *names])
        for repository, constants in held_out.items():
            writer.writerow([repository, *(f"{getattr(constants, name):.4g}" for name in names)])


if __name__ == "__main__":
    main()
