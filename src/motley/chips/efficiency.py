"""What a chip reaches of its quoted figures, from physics and from measurements that are public.

`reach.csv` has, per chip, the measured rate of large matrix products and the number of compute
units, each with its origin. A chip without a measured rate gets what its vendor's measured chips
reach, or less if its power is too small: a matrix product needs a certain energy per FLOP, which
falls from one year's chips to the next.
"""

from __future__ import annotations

import csv
import functools
import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from motley.chips.catalog import CatalogChip, catalog

UNTHROTTLED_SHARE = 0.85
"""Of its peak that a chip reaches in large 16-bit products when power does not hold it back: the
middle of A100, GH200 and RTX 4090 in `reach.csv`."""

JOULES_PER_FLOP_2017 = 2.4e-12
"""Board power over peak of a V100, which reaches its peak within the board's limit."""

HALVING_YEARS = 2.6
"""In which the energy of a 16-bit FLOP halves: from V100 (2.4 pJ, 2017) to H100 (0.71 pJ, 2022)."""

HELD_BACK = 0.9
"""Below this share of its peak a chip's power says more than its vendor's libraries."""

FLASH_OVER_MATMUL = 0.6
"""Rate of a fused attention kernel over that of large products where it was not measured: between
the A100 (0.84, for which FlashAttention-2 was written) and the H100 (0.42)."""

UNKNOWN_UNITS = 100
"""Compute units of a chip that publishes none; only small products depend on it."""


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """Shares of a chip's quoted figures, and the width of its matrix engine."""

    matmul_share: float
    """Of the quoted peak that large matrix products reach."""
    flash_share: float
    """Of the quoted peak that a fused attention kernel of 2023 (FlashAttention-2) reaches."""
    num_units: int
    """Units that each compute one tile of a product at a time."""
    measured: bool
    """Whether the share was measured (`reach.csv`) or follows from the power."""


@dataclass(frozen=True, kw_only=True)
class Reach:
    """One row of `reach.csv`; None where no figure was found."""

    id: str
    matmul_tflops: float | None
    flash_tflops: float | None
    num_units: int | None
    source: str


@functools.cache
def reaches() -> Mapping[str, Reach]:
    """All rows by the catalog's ids."""
    text = resources.files("motley.chips").joinpath("reach.csv").read_text(encoding="utf-8")
    found = {}
    for row in csv.DictReader(text.splitlines()):
        rate, flash, units = row["matmul_tflops"], row["flash_tflops"], row["num_units"]
        found[row["id"]] = Reach(
            id=row["id"],
            matmul_tflops=float(rate) if rate else None,
            flash_tflops=float(flash) if flash else None,
            num_units=int(units) if units else None,
            source=row["source"],
        )
    return types.MappingProxyType(found)


def efficiency_of(chip: CatalogChip) -> Efficiency:
    """The efficiency of a catalog chip."""
    reach = reaches().get(chip.id)
    units = (reach and reach.num_units) or UNKNOWN_UNITS
    peak_tflops = max(chip.bf16_tflops or 0.0, chip.fp16_tflops or 0.0) or chip.fp32_tflops
    vendor = UNTHROTTLED_SHARE if chip.torch_device == "cpu" else vendor_share(chip.vendor)
    share, flash = min(vendor, UNTHROTTLED_SHARE * power_share(chip)), None
    if reach and peak_tflops:
        share = reach.matmul_tflops / peak_tflops if reach.matmul_tflops else share
        flash = reach.flash_tflops / peak_tflops if reach.flash_tflops else None
    return Efficiency(
        matmul_share=share,
        flash_share=flash or FLASH_OVER_MATMUL * share,
        num_units=units,
        measured=bool(reach and reach.matmul_tflops),
    )


@functools.cache
def vendor_share(vendor: str) -> float:
    """Mean share of the peak over the measured chips of a vendor that power does not hold back: how
    far its libraries come."""
    found = []
    for id, reach in reaches().items():
        chip = catalog()[id]
        peak = max(chip.bf16_tflops or 0.0, chip.fp16_tflops or 0.0)
        if chip.vendor == vendor and reach.matmul_tflops and peak and power_share(chip) > HELD_BACK:
            found.append(min(1.0, reach.matmul_tflops / peak))
    return sum(found) / len(found) if found else UNTHROTTLED_SHARE


def power_share(chip: CatalogChip) -> float:
    """Share of its peak that the chip's power can feed; 1 where power or year are unknown."""
    peak = max(chip.bf16_tflops or 0.0, chip.fp16_tflops or 0.0)
    if not (peak and chip.tdp_w and chip.year):
        return 1.0
    needed = JOULES_PER_FLOP_2017 * math.exp2((2017 - chip.year) / HALVING_YEARS)
    return min(1.0, chip.tdp_w / (peak * 1e12) / needed)
