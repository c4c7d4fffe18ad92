"""A chip that nobody has measured yet, from the catalog's public figures.

    chip = quoted_chip("rtx-3090", {"name": "card-0"})

Every figure is quoted; whatever the user gives beats the catalog, and what neither knows is asked
for: no other chip's number takes its place. Times follow from the chip's `efficiency`; where only
whole chips are compared, the share of the quoted peak that training reaches is an assumption: the
middle of published Llama trainings (30 to 57 % on H100, A100, H800, A800, Ascend 910B and MetaX
C500; FlagPerf at commit 1b5a030).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from motley.chips.catalog import CatalogChip, look_up
from motley.chips.efficiency import efficiency_of
from motley.errors import UnknownChipError
from motley.units import Precision

QUOTED_TRAINING_EFFICIENCY = 0.45


def quoted_fields(kind: str, given: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """The fields of a `Chip` of that catalog id, with what the user `given` on top.

    `UnknownChipError` if the id is unknown (with the nearest one) or lacks a figure that a plan
    needs and the user does not give; `where` names the table.
    """
    try:
        return _with_quotes(look_up(kind), given)
    except UnknownChipError as error:
        place = f"{where}: " if where else ""
        raise UnknownChipError(place + error.message, remedy=error.remedy) from None


def _with_quotes(chip: CatalogChip, given: Mapping[str, Any]) -> dict[str, Any]:
    rates = given.get("flops_per_s") or quoted_rates(chip)
    precision = training_precision(rates)
    found: dict[str, Any] = {
        "flops_per_s": rates or None,
        "memory_bytes": chip.memory_bytes,
        "memory_bandwidth_bytes_per_s": (
            chip.mem_bandwidth_gbps * 1e9 if chip.mem_bandwidth_gbps else None
        ),
        "training_efficiency": QUOTED_TRAINING_EFFICIENCY,
        "efficiency": _efficiency(chip, given),
        "precision": precision if precision in rates else None,
        "device": chip.torch_device,
        "power_w": chip.tdp_w,
        "source": "quoted",
    }
    if not {"usd_per_hour", "price_source"} & given.keys():
        found["usd_per_hour"] = chip.cloud_usd_per_hour
        found["price_source"] = chip.cloud_source
    fields = {**found, **given, "kind": chip.id}
    _require(chip, fields)
    return {key: value for key, value in fields.items() if value is not None}


def quoted_rates(chip: CatalogChip) -> dict[Precision, float]:
    """Dense peaks in FLOP/s of the formats whose figure is known."""
    peaks = {precision: chip.peak_flops_per_s(precision) for precision in _PRECISIONS}
    return {precision: peak for precision, peak in peaks.items() if peak is not None}


def _efficiency(chip: CatalogChip, given: Mapping[str, Any]) -> dict[str, Any] | None:
    """None if the user knows the share of whole layers; a given matmul rate is reached in full."""
    if "training_efficiency" in given:
        return None
    efficiency = efficiency_of(chip)
    if "flops_per_s" in given:
        efficiency = dataclasses.replace(efficiency, matmul_share=1.0, measured=True)
    return dataclasses.asdict(efficiency)


_PRECISIONS: tuple[Precision, ...] = ("bf16", "fp16", "fp32", "fp8")


def training_precision(rates: Mapping[Precision, float]) -> Precision:
    """bf16 where the chip has it, else fp16 if that is faster than fp32, else fp32.

    fp8 must be asked for.
    """
    if "bf16" in rates:
        return "bf16"
    return "fp16" if rates.get("fp16", 0.0) > rates.get("fp32", 0.0) else "fp32"


_COLUMNS = {
    "flops_per_s": "rate of matrix products",
    "precision": "rate in bf16, fp16 or fp32",
    "memory_bytes": "memory",
    "memory_bandwidth_bytes_per_s": "memory bandwidth",
}
"""What a plan needs of every chip."""


def _require(chip: CatalogChip, fields: Mapping[str, Any]) -> None:
    lacking = [key for key in _COLUMNS if not fields.get(key)]
    if not lacking:
        return
    if "flops_per_s" in lacking:
        lacking.remove("precision")
    figures = ", ".join(_COLUMNS[key] for key in lacking)
    keys = ["flops_per_s" if key == "precision" else key for key in lacking]
    raise UnknownChipError(
        f"the catalog does not know all figures of '{chip.id}' that a plan needs: {figures}.",
        remedy=f"Give {', '.join(keys)} in its table, or measure one such chip: motley probe.",
    )
