"""The few numbers that the time model does not know from quoted facts: `constants.csv`.

They are properties of kernels, drivers and networks in general, the same for every chip, model and
framework. `benchmarks/fit_planner.py` fits them to published trainings and writes the file.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, kw_only=True)
class Constants:
    """One number each; `constants.csv` has unit, meaning and source."""

    matmul_share: float
    lost_waves: float
    misaligned_share: float
    ragged_share: float
    flash_share: float
    fp8_share: float
    fp8_row_share: float
    fp8_fused_share: float
    memory_share: float
    kernel_s: float
    launch_s: float
    link_share: float
    network_share: float
    staged_share: float
    pcie_share: float
    socket_share: float
    collective_s: float
    tensor_hidden: float
    overlap_slowdown: float
    power_exponent: float


def load_constants() -> Constants:
    """The constants that ship with the package."""
    text = resources.files("motley.chips").joinpath("constants.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return Constants(**{row["name"]: float(row["value"]) for row in rows})


CONSTANTS = load_constants()
"""The shipped ones."""
