"""How published clusters are connected, as far as a table says it.

A rate in the text counts first ("RoCE 1600 Gbps node-node", "400 Gb/s per GPU"), then what is
publicly known of the machine or the instance that is named, then the usual network of the chip's
generation. A rate without "per GPU" is the whole node's.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from motley.chips.catalog import CatalogChip

_RATE = re.compile(r"([0-9.]+)\s*([GT])b(?:ps|it/s|/s)", re.IGNORECASE)
_PER_CHIP = re.compile(r"per\s+(?:gpu|chip|card|npu)", re.IGNORECASE)
_PER_NODE = re.compile(r"(\d+)\s*(?:GPU|chip|card|NPU)s?\s*/\s*(?:node|host)", re.IGNORECASE)
_SLASH_HOST = re.compile(r"(\d+)\s*/\s*host", re.IGNORECASE)
_DIMENSIONS = re.compile(r"(\d+)\s*nodes?\s*x\s*(\d+)", re.IGNORECASE)

GIGABIT = 1e9 / 8
"""Bytes per second."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What is publicly known of a machine or an instance."""

    pattern: str
    per_node: int
    node_bytes_per_s: float
    kind: str = "InfiniBand"
    """Of its network; "Ethernet" means collectives over TCP."""
    local_bytes_per_s: float | None = None
    """Between the chips of a node, where it is less than the chip's own link gives."""
    source: str


MACHINES = (
    Machine(
        pattern=r"selene|dgx a100",
        per_node=8,
        node_bytes_per_s=8 * 200 * GIGABIT,
        source="DGX A100: eight 200 Gbit/s HDR InfiniBand ports for compute",
    ),
    Machine(
        pattern=r"dgx-2",
        per_node=16,
        node_bytes_per_s=8 * 100 * GIGABIT,
        source="DGX-2: eight 100 Gbit/s EDR InfiniBand ports",
    ),
    Machine(
        pattern=r"8 gpu/node, 4x omni-path",
        per_node=8,
        node_bytes_per_s=4 * 100 * GIGABIT,
        kind="Omni-Path",
        source="Jean Zay, A100 partition: four 100 Gbit/s Omni-Path ports per node",
    ),
    Machine(
        pattern=r"jean zay",
        per_node=4,
        node_bytes_per_s=4 * 100 * GIGABIT,
        kind="Omni-Path",
        source="Jean Zay, V100 partition: four 100 Gbit/s Omni-Path ports per node of four",
    ),
    Machine(
        pattern=r"alps|clariden",
        per_node=4,
        node_bytes_per_s=4 * 200 * GIGABIT,
        source="Alps: one 200 Gbit/s Slingshot port per GH200",
    ),
    Machine(
        pattern=r"g4dn\.12xlarge",
        per_node=4,
        node_bytes_per_s=50 * GIGABIT,
        kind="Ethernet",
        local_bytes_per_s=7.9e9,
        source="AWS g4dn.12xlarge: four T4 on eight lanes of PCIe 3.0 each, 50 Gbit/s Ethernet",
    ),
    Machine(
        pattern=r"p3\.8xlarge",
        per_node=4,
        node_bytes_per_s=10 * GIGABIT,
        kind="Ethernet",
        source="AWS p3.8xlarge: four V100 SXM2, 10 Gbit/s Ethernet",
    ),
)

_DOMAIN = re.compile(r"(\d+) GPUs in one domain")

_USUAL = (
    (2016, 100 * GIGABIT, "one 100 Gbit/s port per node (2017)"),
    (2020, 1600 * GIGABIT, "200 Gbit/s per chip (2020)"),
    (2022, 3200 * GIGABIT, "400 Gbit/s per chip (2022)"),
)
"""The network of a node of eight by the year of its chips, where nothing is said."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """How the chips of a cluster are connected."""

    per_node: int
    node_bytes_per_s: float
    """Of a whole node, one direction."""
    kind: str
    local_bytes_per_s: tuple[float | None, ...] = ()
    """Between chips of a node, by kind of chip, where the machine gives less than their links."""
    assumed: str = ""
    """What the text left open, and what was taken."""


def network_of(text: str, chip: CatalogChip, num_chips: int) -> Network:
    """The network that an interconnect cell, or the chip's name in it, describes."""
    machines = [machine for machine in MACHINES if re.search(machine.pattern, text, re.IGNORECASE)]
    if machines:
        slowest = min(machines, key=lambda machine: machine.node_bytes_per_s)
        return Network(
            per_node=slowest.per_node,
            node_bytes_per_s=slowest.node_bytes_per_s,
            kind=slowest.kind,
            local_bytes_per_s=_locals(text, machines),
        )
    per_node = _per_node(text) or _domain(chip, num_chips)
    rate = _rate(text, per_node)
    kind = _kind(text)
    if rate is not None:
        return Network(per_node=per_node, node_bytes_per_s=rate, kind=kind)
    _, usual, said = max(entry for entry in _USUAL if entry[0] <= (chip.year or 2020))
    assumed = f"network not given: {said}" if num_chips > per_node else ""
    return Network(
        per_node=per_node, node_bytes_per_s=usual * per_node / 8, kind=kind, assumed=assumed
    )


def _kind(text: str) -> str:
    """Of the network that a text names; InfiniBand or its like unless it says otherwise."""
    for pattern, kind in (
        (r"roce|rdma", "RoCE"),
        (r"omni-?path", "Omni-Path"),
        (r"ethernet|tcp|socket", "Ethernet"),
    ):
        if re.search(pattern, text, re.IGNORECASE):
            return kind
    return "InfiniBand"


def _locals(text: str, machines: list[Machine]) -> tuple[float | None, ...]:
    """Limits inside the nodes, in the order in which the text names its machines."""
    places = [re.search(machine.pattern, text, re.IGNORECASE) for machine in machines]
    named = sorted(
        (place.start(), machine.local_bytes_per_s)
        for place, machine in zip(places, machines, strict=True)
        if place is not None
    )
    return tuple(limit for _, limit in named)


def _per_node(text: str) -> int | None:
    for pattern, group in ((_PER_NODE, 1), (_SLASH_HOST, 1), (_DIMENSIONS, 2)):
        match = pattern.search(text)
        if match:
            return int(match.group(group))
    return None


def _domain(chip: CatalogChip, num_chips: int) -> int:
    """Chips that their own links join: a node of eight, or a rack such as the GB200 NVL72, of which
    larger clusters use a round number."""
    found = _DOMAIN.search(chip.link or "")
    if found is None:
        return min(8, num_chips)
    size = int(found.group(1))
    return min(num_chips, size if num_chips % size == 0 else 2 ** int(math.log2(size)))


def _rate(text: str, per_node: int) -> float | None:
    """Bytes per second of a node."""
    match = _RATE.search(text)
    if match is None:
        return None
    rate = float(match.group(1)) * GIGABIT * (1000 if match.group(2).upper() == "T" else 1)
    return rate * per_node if _PER_CHIP.search(text) else rate
