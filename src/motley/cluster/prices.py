"""What chips and links cost, with where and when each price was found.

An unknown price is None everywhere and never counts as zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from motley.chips.chip import Chip, Link

GIVEN = "given in the cluster's file"
"""The source of a price that the user gave without one."""


@dataclass(frozen=True, kw_only=True)
class Price:
    """One price of a cluster."""

    item: str
    """A kind of chip, or "site - site"."""
    num_chips: int = 0
    """That cost this; 0 for a link."""
    usd: float | None
    unit: str
    """USD per what: "chip-hour" or "GB sent"."""
    source: str | None
    """Where and when it was found; None if the price is unknown or nothing is paid."""

    def __str__(self) -> str:
        """ "8 x nvidia-rtx-4090: 0.4 USD per chip-hour (...)"."""
        item = f"{self.num_chips} x {self.item}" if self.num_chips else self.item
        if self.usd is None:
            return f"{item}: price per {self.unit} unknown"
        if not self.usd:
            return f"{item}: nothing per {self.unit}"
        return f"{item}: {self.usd:g} USD per {self.unit} ({self.source})"


def chip_prices(chips: Iterable[Chip]) -> Iterator[Price]:
    """One for each kind, price and source, in the order in which they are first met."""
    counts: dict[tuple[str, float | None, str | None], int] = {}
    for chip in chips:
        key = (chip.kind, chip.usd_per_hour, chip.price_source)
        counts[key] = counts.get(key, 0) + 1
    for (kind, usd, source), count in counts.items():
        yield Price(
            item=kind,
            num_chips=count,
            usd=usd,
            unit="chip-hour",
            source=None if usd is None else source or GIVEN,
        )


def link_prices(links: Iterable[Link], sites: Mapping[str, object]) -> Iterator[Price]:
    """One for each link that has a price, or that joins two sites."""
    for link in links:
        first, second = link.between
        joins_sites = first != second and {first, second} <= sites.keys() | {"*"}
        if link.usd_per_gb is None and not (joins_sites and len(sites) > 1):
            continue
        usd = 0.0 if link.unmetered else link.usd_per_gb
        yield Price(
            item=f"{first} - {second}",
            usd=usd,
            unit="GB sent",
            source=(link.price_source or GIVEN) if usd else None,
        )
