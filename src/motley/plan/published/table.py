"""Predicts a whole table of published trainings: `motley predict --table in.csv --out out.csv`.

Every line becomes one line of the new table: the predicted step and memory, what was assumed, and
where the row has a measured step the error. A row that says too little is skipped with the reason
and counted; a line that cannot be read is reported, and the others are done.
"""

from __future__ import annotations

import csv
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from motley.errors import MotleyError, not_written
from motley.model.counts import model_counts
from motley.plan.published.case import Case
from motley.plan.published.memory import case_fits, case_memory
from motley.plan.published.model import Incomplete
from motley.plan.published.predict import predict
from motley.plan.published.rows import PublishedRow, PublishedTable, read_table
from motley.plan.published.settle import case_of

OUT_COLUMNS = (
    "line", "source", "model", "chip", "n_chips", "status", "reason", "stack", "assumed",
    "predicted_step_s", "predicted_tokens_per_s_total", "predicted_mfu", "pipeline_s",
    "exchange_s", "optimizer_s", "predicted_peak_memory_bytes", "fits", "measured_step_s", "error",
)  # fmt: skip
"""`error` is predicted over measured step minus 1; `predicted_mfu` counts causal attention as half,
against the quoted peak of the format trained in."""


@dataclass(frozen=True, kw_only=True)
class RowPrediction:
    """What became of one row."""

    row: PublishedRow
    case: Case | None = None
    reason: str = ""
    """Why it was skipped."""
    fields: dict[str, Any]
    """The cells of the new table, without those that repeat the row."""

    @property
    def error(self) -> float | None:
        value = self.fields.get("error")
        return value if isinstance(value, float) else None


def predict_table(table: Path, out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Predicts the rows of a CSV file into another; problems go to `say`, a summary is returned."""
    published = read_table(table)
    for problem in published.problems:
        say(f"{table.name}, line {problem.line}: {problem.reason}")
    done = predict_rows(published)
    for each in done:
        if each.reason:
            say(f"{table.name}, line {each.row.line}: skipped: {each.reason}")
    _write(out, published, done)
    return summary(published, done)


def predict_rows(table: PublishedTable) -> list[RowPrediction]:
    """The prediction of every row that could be read."""
    return [_predict_row(row, table) for row in table.rows]


def summary(table: PublishedTable, done: list[RowPrediction]) -> dict[str, Any]:
    """Counts, and the error over the rows that have a measured step."""
    errors = [abs(each.error) for each in done if each.error is not None]
    return {
        "rows": len(done),
        "predicted": sum(not each.reason for each in done),
        "skipped": dict(Counter(each.reason for each in done if each.reason)),
        "unreadable_lines": [
            {"line": problem.line, "reason": problem.reason} for problem in table.problems
        ],
        "compared": len(errors),
        "median_error": statistics.median(errors) if errors else None,
    }


def measured_step_s(row: PublishedRow, tokens_per_step: float) -> float | None:
    """The row's step, or what its tokens per second make of it."""
    if row.step_s is not None:
        return row.step_s
    if row.tokens_per_s_total is None:
        return None
    return tokens_per_step / row.tokens_per_s_total


def _predict_row(row: PublishedRow, table: PublishedTable) -> RowPrediction:
    try:
        case = case_of(row, table.rows)
        fields = _fields(row, case)
    except Incomplete as cause:
        return RowPrediction(row=row, reason=str(cause), fields={})
    except MotleyError as cause:
        return RowPrediction(row=row, reason=" ".join(str(cause).split()), fields={})
    return RowPrediction(row=row, case=case, fields=fields)


def _fields(row: PublishedRow, case: Case) -> dict[str, Any]:
    found = predict(case)
    tokens_per_s = case.tokens_per_step / found.step_s
    peaks = [chip.flops_per_s[chip.precision] for chip in case.chips]
    peak = sum(
        peak * count / sum(case.counts) for peak, count in zip(peaks, case.counts, strict=True)
    )
    per_token = model_counts(case.config, case.sequence_length).flops_per_token
    memory = case_memory(case)
    measured = measured_step_s(row, case.tokens_per_step)
    return {
        "stack": case.stack.name,
        "assumed": "; ".join(case.assumed),
        "predicted_step_s": found.step_s,
        "predicted_tokens_per_s_total": tokens_per_s,
        "predicted_mfu": tokens_per_s * per_token / (peak * sum(case.counts)),
        "pipeline_s": found.pipeline_s,
        "exchange_s": found.exchange_s,
        "optimizer_s": found.optimizer_s,
        "predicted_peak_memory_bytes": max(
            part.reserved_bytes + part.context_bytes for part in memory
        ),
        "fits": case_fits(case, memory),
        "measured_step_s": measured,
        "error": None if measured is None else found.step_s / measured - 1.0,
    }


def _write(out: Path, table: PublishedTable, done: list[RowPrediction]) -> None:
    """One line for every line of the table below its header, in their order."""
    lines = [_line(each) for each in done]
    lines += [
        {"line": problem.line, "status": "unreadable", "reason": problem.reason}
        for problem in table.problems
        if problem.line > 1
    ]
    try:
        with out.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, OUT_COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(sorted(lines, key=lambda cells: cells["line"]))
    except OSError as cause:
        raise not_written(out, cause) from None


def _line(each: RowPrediction) -> dict[str, Any]:
    row = each.row
    cells = {
        "line": row.line,
        "source": row.source,
        "model": row.model,
        "chip": row.chip,
        "n_chips": row.n_chips,
        "status": "skipped" if each.reason else "predicted",
        "reason": each.reason,
        **each.fields,
    }
    return {
        key: f"{value:.6g}" if isinstance(value, float) else value for key, value in cells.items()
    }
