"""How far off predictions were: `errors.csv`, from the benchmark against published trainings."""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, kw_only=True)
class ErrorBand:
    """An error of step times that the benchmark measured."""

    share: float
    """Half of the predictions were nearer than this share of the measured time."""
    source: str

    def __str__(self) -> str:
        return f"half of the predictions were within {self.share:.0%} ({self.source})"


@functools.cache
def error_band(name: str = "median_error_cold") -> ErrorBand:
    """The error of predictions from the catalog alone, or "median_error_calibrated"."""
    text = resources.files("motley.plan").joinpath("errors.csv").read_text(encoding="utf-8")
    row = next(row for row in csv.DictReader(text.splitlines()) if row["name"] == name)
    return ErrorBand(share=float(row["value"]), source=row["source"])
