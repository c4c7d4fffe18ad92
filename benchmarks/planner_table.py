"""Published trainings against the planner's time model: rows, truths and scores.

A source is a document with one table; rows that are files of one folder are one source. Constants
are held out by repository: a row is predicted with constants that no row of its repository helped
to fit.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from motley.chips.constants import CONSTANTS, Constants
from motley.errors import MotleyError
from motley.plan.published.model import Incomplete
from motley.plan.published.predict import predict
from motley.plan.published.rows import PublishedRow, PublishedTable, read_table
from motley.plan.published.settle import case_of


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One row that has a measured step time, and its prediction."""

    row: PublishedRow
    measured_s: float
    predicted_s: float

    @property
    def ratio(self) -> float:
        return self.predicted_s / self.measured_s

    @property
    def error(self) -> float:
        return abs(self.ratio - 1.0)


def source_of(row: PublishedRow) -> str:
    """ ".../OPT-350/N1/plan.json" -> ".../OPT-350": files of one folder are one source."""
    return re.sub(r"/N\d+/[^/]*\.json$", "", row.source)


def repository_of(row: PublishedRow) -> str:
    """ "owner/name path" -> "owner/name"; any other source is its own."""
    first = row.source.split()[0] if row.source else ""
    return first if re.fullmatch(r"[\w.-]+/[\w.-]+", first) else row.source


def load(path: Path) -> PublishedTable:
    return read_table(path)


def scored(
    table: PublishedTable,
    constants: Constants | Mapping[str, Constants] = CONSTANTS,
    rows: Sequence[PublishedRow] | None = None,
    *,
    known_framework: bool = True,
) -> tuple[list[Scored], list[tuple[PublishedRow, str]]]:
    """Every row with a measured step, and those that are skipped with the reason.

    Unless `known_framework`, each is predicted with the stack of a framework that nobody knows.
    """
    done: list[Scored] = []
    skipped: list[tuple[PublishedRow, str]] = []
    for row in rows if rows is not None else table.rows:
        if row.step_s is None and row.tokens_per_s_total is None:
            skipped.append((row, "no measured step_s or tokens_per_s_total"))
            continue
        own = constants if isinstance(constants, Constants) else constants[repository_of(row)]
        try:
            case = case_of(row, table.rows, own, known_framework=known_framework)
        except (Incomplete, MotleyError) as cause:
            skipped.append((row, str(cause)))
            continue
        measured = row.step_s or case.tokens_per_step / (row.tokens_per_s_total or math.nan)
        done.append(Scored(row=row, measured_s=measured, predicted_s=predict(case).step_s))
    return done, skipped


def by_source(rows: Sequence[Scored]) -> dict[str, list[Scored]]:
    groups: dict[str, list[Scored]] = {}
    for each in rows:
        groups.setdefault(source_of(each.row), []).append(each)
    return groups


def calibrated_errors(rows: Sequence[Scored]) -> list[float]:
    """For each row of a source, its error after one other row has set one scalar: the median over
    every choice of that other row."""
    if len(rows) < 2:
        return []
    ratios = [each.ratio for each in rows]
    return [
        statistics.median(
            abs(ratio / other - 1.0) for index, other in enumerate(ratios) if index != own
        )
        for own, ratio in enumerate(ratios)
    ]


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Rank correlation, equal values sharing their ranks; NaN where one side does not vary."""
    one, two = _ranks(first), _ranks(second)
    mean = statistics.fmean(one)
    over = sum((a - mean) * (b - mean) for a, b in zip(one, two, strict=True))
    under = math.sqrt(sum((a - mean) ** 2 for a in one) * sum((b - mean) ** 2 for b in two))
    return over / under if under else math.nan


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    first = 0
    while first < len(order):
        last = first
        while last + 1 < len(order) and values[order[last + 1]] == values[order[first]]:
            last += 1
        for position in order[first : last + 1]:
            ranks[position] = (first + last) / 2
        first = last + 1
    return ranks
