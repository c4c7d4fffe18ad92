"""Measures every device of this machine and the links between them, for a cluster.toml.

The figures are measured; what the catalog quotes for a recognised chip stands beside them as a
comment and is never put in their place. A price is never measured: it is left for the user.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from motley.chips import host, vendors
from motley.chips.catalog import CatalogChip
from motley.chips.chip import Chip, Link
from motley.chips.cluster_text import cluster_toml, link_key
from motley.chips.driver_names import match_device_name
from motley.chips.links import measure_link, measure_links
from motley.chips.measure import DEFAULT_SECONDS, DeviceFigures, measure_device
from motley.chips.ping_pong import LinkMeasurement
from motley.chips.probe_comments import (
    FEEDS_ACCELERATORS,
    chip_comments,
    file_comments,
    left_out_comment,
    link_comments,
    noise_warning,
)
from motley.errors import ProbeError
from motley.units import duration, si

if TYPE_CHECKING:
    import torch

DEFAULT_LINK_SECONDS = 3.0
DEFAULT_NODE = "local"
ROUNDING_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What was found on one machine."""

    chips: tuple[Chip, ...]
    links: tuple[Link, ...]
    comments: Mapping[str, Sequence[str]]
    """For `cluster_toml`."""

    def to_toml(self, name: str = "cluster") -> str:
        """The commented text of a cluster.toml."""
        return cluster_toml(name, self.chips, self.links, self.comments)


def probe(
    report: Callable[[str], None],
    *,
    node: str = DEFAULT_NODE,
    device_seconds: float = DEFAULT_SECONDS,
    link_seconds: float = DEFAULT_LINK_SECONDS,
) -> Probe:
    """Measures each device that PyTorch sees, and the links; about that many seconds for each.

    `report` gets a line per finished part. The devices of a `node` with a name of its own carry
    it in front of theirs. A device that cannot train and a link that cannot be measured are
    reported and left out; `ProbeError` if no device is left.
    """
    devices = vendors.available_devices()
    report("found " + ", ".join(f"{device} ({vendors.device_name(device)})" for device in devices))
    comments: dict[str, list[str]] = {"": file_comments(datetime.datetime.now(datetime.UTC))}
    chips = []
    for device in devices:
        try:
            figures = measure_device(device, report, device_seconds)
        except ProbeError as error:
            report(f"{device} is left out: {error}")
            comments[""] += left_out_comment(device, error)
            continue
        if warning := noise_warning(figures):
            report(warning)
        row = recognise(device, figures)
        chip = _chip(device, figures, row, node)
        comments |= chip_comments(chip, figures, row)
        if device.type == "cpu" and len(devices) > 1:
            comments[chip.name].append(FEEDS_ACCELERATORS)
        chips.append(chip)
    if not chips:
        raise ProbeError(
            "no device of this machine can train.", remedy="See the lines above, from each device."
        )
    links = []
    for measurement, link, backend in _links(chips, node, link_seconds, report):
        comments[link_key(link)] = link_comments(measurement, backend)
        links.append(link)
    return Probe(chips=tuple(chips), links=tuple(links), comments=comments)


def recognise(device: torch.device, figures: DeviceFigures) -> CatalogChip | None:
    """The catalog row of a device. A CPU counts only with all the cores that its row has."""
    if device.type != "cpu":
        return match_device_name(figures.name, vendors.nominal_memory_bytes(device))
    row = match_device_name(figures.name, None)
    cores = re.search(r"(\d+) cores", row.name) if row else None
    if cores is None or host.num_threads() < int(cores[1]):
        return None
    return row


def chip_name(device: torch.device, node: str = DEFAULT_NODE) -> str:
    """The name "gpu0" for "cuda:0", "cpu" for "cpu"; behind the node where nodes have names."""
    name = "cpu" if device.type == "cpu" else f"gpu{device.index or 0}"
    return name if node == DEFAULT_NODE else f"{node}-{name}"


def _chip(device: torch.device, figures: DeviceFigures, row: CatalogChip | None, node: str) -> Chip:
    return Chip(
        name=chip_name(device, node),
        kind=row.id if row else unlisted_kind(device, figures),
        node=node,
        device=str(device),
        precision=figures.precision,
        flops_per_s={
            precision: _digits(found.rate.median) for precision, found in figures.matmul.items()
        },
        training_efficiency=_digits(figures.training_efficiency),
        memory_bytes=figures.free_memory_bytes // ROUNDING_BYTES * ROUNDING_BYTES,
        memory_bandwidth_bytes_per_s=_digits(figures.memory_bandwidth.median),
    )


def unlisted_kind(device: torch.device, figures: DeviceFigures) -> str:
    """A kind from the driver's name and what tells its variants apart: memory, or threads."""
    slug = re.sub(r"\((r|tm)\)|[^a-z0-9]+", " ", figures.name.lower())
    words = slug.split() or [device.type]
    if device.type == "cpu":
        return "-".join(["cpu", *words, str(host.num_threads()), "threads"])
    return "-".join([*words, f"{figures.total_memory_bytes / 2**30:.0f}gib"])


def _digits(value: float) -> float:
    """Four significant digits: more would claim what windows do not show."""
    return float(f"{value:.4g}")


def _links(
    chips: Sequence[Chip], node: str, seconds: float, report: Callable[[str], None]
) -> list[tuple[LinkMeasurement, Link, str]]:
    """The node's own link over host memory, and every pair of its accelerators."""
    found: list[tuple[LinkMeasurement, Link, str]] = []
    try:
        measurement = measure_link(seconds=seconds)
        within = dataclasses.replace(measurement.link, between=(node, node))
        found.append((measurement, within, vendors.HOST_COLLECTIVE))
        found += _accelerator_links(chips, seconds)
    except ProbeError as error:
        report(str(error))
    for _, link, backend in found:
        rate, latency = si(link.bandwidth_bytes_per_s, "B/s"), duration(link.latency_s)
        report(f"link {link_key(link)} over {backend}: {rate}, {latency}")
    return found


def _accelerator_links(
    chips: Sequence[Chip], seconds: float
) -> list[tuple[LinkMeasurement, Link, str]]:
    """Every pair of accelerators over their own library; none where they only have gloo."""
    accelerators = [chip for chip in chips if chip.device != "cpu"]
    devices = [chip.device for chip in accelerators]
    backend = vendors.common_collective(devices)
    if len(devices) < 2 or backend is None or backend == vendors.HOST_COLLECTIVE:
        return []
    names = [chip.name for chip in accelerators]
    measured = measure_links(devices, backend, names, seconds=seconds)
    return [(measurement, measurement.link, backend) for measurement in measured]
