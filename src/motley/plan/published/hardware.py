"""The chips of a published row and the links between them, with the catalog's figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from motley.chips.catalog import CatalogChip
from motley.chips.chip import Chip, Link
from motley.chips.constants import Constants
from motley.chips.efficiency import efficiency_of
from motley.chips.quoted import quoted_fields
from motley.chips.quoted_link import LOCAL_LATENCY_S, PCIE_X16_BYTES_PER_S, quoted_link
from motley.errors import UnknownChipError
from motley.plan.published.chips import NamedChip
from motley.plan.published.network import Network, network_of
from motley.plan.published.rows import PublishedRow
from motley.plan.published.words import precision_of
from motley.units import Precision

NETWORK_LATENCY_S = 8e-6
"""Of a message between nodes over InfiniBand or RoCE."""
SOCKET_LATENCY_S = 5e-5
"""Of a message between nodes over TCP."""


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What a row ran on."""

    chips: tuple[Chip, ...]
    """One of each kind, in the order of ranks."""
    counts: tuple[int, ...]
    """How many of each."""
    per_node: int
    local: tuple[Link, ...]
    """Inside the nodes of each kind."""
    network: Link
    assumed: tuple[str, ...]


def hardware_of(
    row: PublishedRow, named: Sequence[NamedChip], num_chips: int, constants: Constants
) -> Hardware:
    """The chips and links of a row; `UnknownChipError` if the catalog lacks a figure."""
    network = network_of(f"{row.interconnect} {row.chip}", named[0].catalog, num_chips)
    local = [_local(chip.catalog, network, kind) for kind, chip in enumerate(named)]
    assumed = [entry for chip in named for entry in chip.assumed]
    if network.assumed:
        assumed.append(network.assumed)
    if num_chips > 1:
        assumed += [
            f"link of {chip.catalog.id} not known: PCIe 4.0"
            for chip, link in zip(named, local, strict=True)
            if link.source == "predicted"
        ]
    return Hardware(
        chips=tuple(_chip(chip, row.precision, constants) for chip in named),
        counts=tuple(chip.count or num_chips for chip in named),
        per_node=network.per_node,
        local=tuple(local),
        network=_network_link(network),
        assumed=tuple(assumed),
    )


def _chip(named: NamedChip, text: str, constants: Constants) -> Chip:
    entry = named.catalog
    fields = quoted_fields(entry.id, {"name": entry.id})
    rates: dict[Precision, float] = dict(fields["flops_per_s"])
    if entry.fp8_tflops:
        rates["fp8"] = entry.fp8_tflops * 1e12
    if named.power_w is not None and entry.tdp_w is not None:
        share = (named.power_w / entry.tdp_w) ** constants.power_exponent
        rates = {key: rate * share for key, rate in rates.items()}
    rates = {key: named.share * rate for key, rate in rates.items()}
    if entry.memory_gb is None or entry.mem_bandwidth_gbps is None:
        raise UnknownChipError(f"the catalog does not know memory of '{entry.id}'.")
    efficiency = efficiency_of(entry)
    fields.update(
        flops_per_s=rates,
        precision=precision_of(text, rates),
        efficiency=replace(efficiency, num_units=round(named.share * efficiency.num_units)),
        memory_bytes=round(named.share * entry.memory_gb * 1e9),
        memory_bandwidth_bytes_per_s=named.share * entry.mem_bandwidth_gbps * 1e9,
    )
    return Chip(**fields)


def _local(chip: CatalogChip, network: Network, kind: int) -> Link:
    """Between the chips of a node; PCIe 4.0 x16 where the catalog has no link."""
    link = quoted_link(chip, network.per_node) or Link(
        kind="PCIe 4.0 x16",
        bandwidth_bytes_per_s=PCIE_X16_BYTES_PER_S[4.0],
        latency_s=LOCAL_LATENCY_S,
        source="predicted",
    )
    limits = network.local_bytes_per_s
    limit = limits[min(kind, len(limits) - 1)] if limits else None
    rate = min(link.bandwidth_bytes_per_s, limit or math.inf)
    return replace(link, bandwidth_bytes_per_s=rate)


def _network_link(network: Network) -> Link:
    sockets = network.kind == "Ethernet"
    return Link(
        kind=network.kind,
        bandwidth_bytes_per_s=network.node_bytes_per_s,
        latency_s=SOCKET_LATENCY_S if sockets else NETWORK_LATENCY_S,
        source="quoted",
    )
