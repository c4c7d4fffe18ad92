"""The catalog of public facts about chips, from `chips.csv`, which ships with the package.

Every figure is quoted and keeps its origin; an empty cell is unknown and stays so. Rates are dense
and per chip as sold. Look-ups take ids that a person types and never settle for a guess.
"""

from __future__ import annotations

import csv
import functools
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from motley.errors import UnknownChipError, nearest
from motley.units import Precision

LABELS = frozenset({"year", "pcie_gen", "torch_device"})
"""Columns that describe the chip and carry no origin in the file."""

_GROUP = re.compile(r"\[([^\]]+)\] (.*?)(?= ; \[|$)")
_TFLOPS = 1e12
MOST_EXAMPLES = 4


@dataclass(frozen=True, kw_only=True)
class CatalogChip:
    """One row of `chips.csv`. `None` means that no figure was found."""

    id: str
    vendor: str
    name: str
    year: int | None
    fp32_tflops: float | None
    """Dense TFLOP/s of plain fp32, without TF32."""
    fp16_tflops: float | None
    """Dense, with fp32 accumulation where the chip has a choice."""
    bf16_tflops: float | None
    fp8_tflops: float | None
    int8_tops: float | None
    memory_gb: float | None
    mem_bandwidth_gbps: float | None
    """GB/s of the chip's own memory."""
    link: str | None
    """What connects it to local peers."""
    link_gbps: float | None
    """GB/s per chip in one direction, over all links to local peers together."""
    pcie_gen: float | None
    tdp_w: float | None
    list_price_usd: float | None
    """At launch; an order of magnitude."""
    cloud_usd_per_hour: float | None
    """Cheapest offer of one chip at the one market and day that `cloud_source` names."""
    torch_device: str | None
    source: str | None
    cloud_source: str | None
    notes: str | None

    def origin_of(self, column: str) -> str | None:
        """Where the figure in `column` was found; `None` for a label or an empty cell."""
        if column == "cloud_usd_per_hour":
            return self.cloud_source
        return _origins(self.source or "").get(column)

    def peak_flops_per_s(self, precision: Precision) -> float | None:
        """The quoted dense peak of the chip as sold, in FLOP/s."""
        value: float | None = getattr(self, f"{precision}_tflops")
        return None if value is None else value * _TFLOPS

    @property
    def memory_bytes(self) -> int | None:
        """The nominal memory as decimal bytes."""
        return None if self.memory_gb is None else round(self.memory_gb * 1e9)

    @property
    def short_id(self) -> str:
        """The id without its vendor: "rtx-4090"."""
        return self.id.split("-", 1)[1]


@functools.cache
def _origins(source: str) -> Mapping[str, str]:
    """The `[columns] origin ; [columns] origin` groups of a row, by column."""
    return {
        column.strip(): origin.strip()
        for columns, origin in _GROUP.findall(source)
        for column in columns.split(",")
    }


@functools.cache
def catalog() -> Mapping[str, CatalogChip]:
    """All chips by id, in the order of the file."""
    text = resources.files("motley.chips").joinpath("chips.csv").read_text(encoding="utf-8")
    chips = [_parse(row) for row in csv.DictReader(text.splitlines())]
    return types.MappingProxyType({chip.id: chip for chip in chips})


def _parse(row: Mapping[str, str]) -> CatalogChip:
    hints = typing.get_type_hints(CatalogChip)
    return CatalogChip(**{key: _cell(hints[key], text) for key, text in row.items()})


def _cell(hint: object, text: str) -> typing.Any:
    if hint is str:
        return text
    if not text:
        return None
    (kind,) = (option for option in typing.get_args(hint) if option is not types.NoneType)
    return kind(text)


def _fits_in_part(wanted: str, chip_id: str) -> bool:
    """Whether the id holds the text, or all its words in some order: "a100-80gb"."""
    words = {re.sub(r"^(\d+)gb$", r"\1g", word) for word in wanted.split("-") if word}
    return bool(words) and (wanted in chip_id or words <= set(chip_id.split("-")))


def look_up(name: str) -> CatalogChip:
    """The chip of that id, with or without the vendor in front.

    `UnknownChipError` lists the ids that a part of a name fits, or suggests the nearest id.
    """
    chips = catalog()
    wanted = re.sub(r"[\s_]+", "-", name.strip().lower())
    if wanted in chips:
        return chips[wanted]
    short = [chip for chip in chips.values() if chip.short_id == wanted]
    if len(short) == 1:
        return short[0]
    partial = [chip.id for chip in chips.values() if _fits_in_part(wanted, chip.id)]
    if partial:
        fits = "fits one id only in part" if len(partial) == 1 else f"fits {len(partial)} ids"
        raise UnknownChipError(
            f"'{name}' {fits}: {', '.join(partial)}.", remedy="Give the whole id."
        )
    short_ids = {chip.short_id: chip.id for chip in chips.values()}
    hint = nearest(wanted, chips) or nearest(wanted, short_ids)
    raise UnknownChipError(
        f"the catalog has no chip '{name}'.",
        remedy=hint
        or f"It has {', '.join(_examples(chips))} and others; in a cluster.toml any chip can be "
        "declared with its figures.",
    )


def _examples(chips: Mapping[str, CatalogChip]) -> list[str]:
    """The newest chip of some vendors: how ids are written."""
    newest: dict[str, CatalogChip] = {}
    for chip in chips.values():
        known = newest.get(chip.vendor)
        if known is None or (chip.year or 0) > (known.year or 0):
            newest[chip.vendor] = chip
    return [chip.id for chip in newest.values()][:MOST_EXAMPLES]
