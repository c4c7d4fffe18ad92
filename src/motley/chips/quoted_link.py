"""The link between chips of one node that the catalog quotes for their kind."""

from __future__ import annotations

import re

from motley.chips.catalog import CatalogChip
from motley.chips.chip import Link

LOCAL_LATENCY_S = 3e-6
"""Assumed: of one message between two chips of a node, besides the start of each collective."""

PCIE_X16_BYTES_PER_S = {3.0: 15.75e9, 4.0: 31e9, 5.0: 63e9}
"""In one direction, by generation, as in the catalog (stas00/ml-engineering, network/README.md)."""

_MESH = re.compile(r"\((\d+) x ([\d.]+), full mesh\)")


def quoted_link(chip: CatalogChip, per_node: int) -> Link | None:
    """Between chips of this kind, `per_node` of them in a node; None if no figure is known.

    Bridges that join pairs only do not count among more than two chips: PCIe does. In a full mesh
    a chip uses as many links as it has neighbours.
    """
    kind, rate = chip.link or "", chip.link_gbps
    origin = chip.origin_of("link_gbps")
    if "(pairs)" in kind and per_node > 2:
        kind, rate, origin = _pcie(chip)
    mesh = _MESH.search(kind)
    if mesh and rate is not None:
        rate = min(int(mesh[1]), per_node - 1) * float(mesh[2])
    if not rate:
        return None
    return Link(
        kind=kind,
        bandwidth_bytes_per_s=rate * 1e9,
        latency_s=LOCAL_LATENCY_S,
        source="quoted",
        origin=origin,
    )


def _pcie(chip: CatalogChip) -> tuple[str, float | None, str | None]:
    if chip.pcie_gen not in PCIE_X16_BYTES_PER_S:
        return "", None, None
    rate = PCIE_X16_BYTES_PER_S[chip.pcie_gen] / 1e9
    return f"PCIe {chip.pcie_gen} x16", rate, "derived: 16 lanes of the catalog's PCIe generation"
