"""A chip that nobody has measured yet, from the catalog's public figures.

    chip = quoted_chip("rtx-3090", {"name": "card-0"})

Every figure is quoted; whatever the user gives beats the catalog. The share of the quoted peak
that training reaches is an assumption: the middle of published Llama trainings (30 to 57 % on
H100, A100, H800, A800, Ascend 910B and MetaX C500; FlagPerf at commit 1b5a030).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from motley.chips.catalog import CatalogChip, look_up
from motley.errors import UnknownChipError
from motley.units import Precision

QUOTED_TRAINING_EFFICIENCY = 0.45


def quoted_fields(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `Chip` of that catalog id, with what the user `given` on top.

    `UnknownChipError` if the id is unknown (with the nearest one) or lacks a figure that a plan
    needs and the user does not give.
    """
    chip = look_up(kind)
    rates = {
        precision: rate
        for precision in _PRECISIONS
        if (rate := chip.peak_flops_per_s(precision)) is not None
    }
    found: dict[str, Any] = {
        "kind": chip.id,
        "flops_per_s": rates or None,
        "memory_bytes": chip.memory_bytes,
        "memory_bandwidth_bytes_per_s": (
            chip.mem_bandwidth_gbps * 1e9 if chip.mem_bandwidth_gbps else None
        ),
        "training_efficiency": QUOTED_TRAINING_EFFICIENCY,
        "precision": training_precision(rates),
        "device": chip.torch_device,
        "source": "quoted",
    }
    fields = {**found, **given, "kind": chip.id}
    _require(chip, fields)
    return {key: value for key, value in fields.items() if value is not None}


_PRECISIONS: tuple[Precision, ...] = ("bf16", "fp16", "fp32")


def training_precision(rates: Mapping[Precision, float]) -> Precision:
    """bf16 where the chip has it, else fp16 if that is faster than fp32, else fp32."""
    if "bf16" in rates:
        return "bf16"
    return "fp16" if rates.get("fp16", 0.0) > rates.get("fp32", 0.0) else "fp32"


def _require(chip: CatalogChip, fields: Mapping[str, Any]) -> None:
    for key in ("flops_per_s", "memory_bytes", "memory_bandwidth_bytes_per_s"):
        if not fields.get(key):
            raise UnknownChipError(
                f"the catalog does not know {key} of '{chip.id}'.",
                remedy=f"Give {key} in the chip's table.",
            )
