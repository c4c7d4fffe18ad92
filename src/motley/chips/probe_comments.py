"""The comments of a probed cluster.toml: what a figure is, how it was measured, what is quoted."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from motley.chips import vendors
from motley.chips.catalog import CatalogChip
from motley.chips.chip import Chip
from motley.chips.driver_names import share_of_row
from motley.chips.measure import DeviceFigures, MatmulRate, Rate
from motley.chips.ping_pong import LinkMeasurement
from motley.errors import ProbeError
from motley.units import Precision, percent, si, size

if TYPE_CHECKING:
    import torch

NOISY_SHARE = 0.05
"""Other load above this is worth a warning."""

FEEDS_ACCELERATORS = (
    "It also feeds the accelerators of this machine: delete this table if they need its cores."
)


def file_comments(moment: datetime.datetime) -> list[str]:
    """The head of the file."""
    import torch

    return [
        f"Measured by 'motley probe' on {moment:%Y-%m-%d %H:%M} UTC with torch "
        f"{torch.__version__}. Edit freely: every figure may be replaced by one you know better.",
        "A rate is the median of its windows. Quoted figures are the catalog's, with their origin, "
        "and stand here for comparison only.",
        "",
    ]


def left_out_comment(device: torch.device, error: ProbeError) -> list[str]:
    """Why a device of the machine has no table."""
    name = vendors.device_name(device) or "no name"
    return [f"Left out: {device} ({name}). {' '.join(str(error).split())}", ""]


def chip_comments(
    chip: Chip, figures: DeviceFigures, row: CatalogChip | None
) -> dict[str, list[str]]:
    """Comments by place, for one chip."""
    share = share_of_row(row, figures.total_memory_bytes) if row else 1.0
    key = chip.name
    return {
        key: _about(figures, row, share),
        f"{key}.precision": [figures.reason],
        f"{key}.flops_per_s": _rates(figures, row, share),
        f"{key}.training_efficiency": [
            f"Share of the {figures.precision} matmul rate that training reaches: forward and "
            f"backward of {figures.training_shape}, {_spread(figures.training, 'FLOP/s')}.",
            *([figures.kernels] if figures.kernels else []),
        ],
        f"{key}.memory_bytes": _memory(figures, row, share),
        f"{key}.memory_bandwidth_bytes_per_s": _bandwidth(figures, row, share),
        f"{key}.usd_per_hour": _price(row),
    }


def link_comments(measurement: LinkMeasurement, backend: str) -> list[str]:
    """How a link was measured, and its points."""
    return [
        f"One direction, {backend} between two processes: half of a round trip, median by message "
        "size; bandwidth and latency are fitted to these points.",
        *measurement.table(),
    ]


def noise_warning(figures: DeviceFigures) -> str:
    """What to know if other processes disturbed the measurement; empty if they did not."""
    noticed = []
    if figures.others_share is not None and figures.others_share > NOISY_SHARE:
        noticed.append(f"other processes took {percent(figures.others_share)} of the CPU meanwhile")
    if figures.training_efficiency > 1:
        noticed.append(
            "training came out faster than its own matmuls, so something disturbed these (plans "
            "use the rate of training)"
        )
    if not noticed:
        return ""
    return f"WARNING: {'; '.join(noticed)}. Measure again when the machine is idle."


def _about(figures: DeviceFigures, row: CatalogChip | None, share: float) -> list[str]:
    name = figures.name or "A device without a name"
    if row is None:
        known = f"{name}. Not certain to be a chip of the catalog: nothing is quoted."
    else:
        part = "" if share == 1.0 else f" This device is {share:g} of it, and so is what is quoted."
        known = f"{name}: {row.name} in the catalog.{part}"
    lines = [known]
    lines += [f"{precision} cannot be used: {why}." for precision, why in figures.unusable.items()]
    warning = noise_warning(figures)
    lines += [warning] if warning else []
    return lines


def _rates(figures: DeviceFigures, row: CatalogChip | None, share: float) -> list[str]:
    lines = ["Dense square matmuls, sustained:"]
    for precision, found in figures.matmul.items():
        line = f"{precision} at size {found.size}: {_spread(found.rate, 'FLOP/s')}."
        lines.append(line + _quoted_rate(precision, found, row, share))
    return lines


def _quoted_rate(
    precision: Precision, found: MatmulRate, row: CatalogChip | None, share: float
) -> str:
    peak = row.peak_flops_per_s(precision) if row else None
    if row is None or peak is None:
        return ""
    quoted = _quote(row, f"{precision}_tflops", si(peak * share, "FLOP/s"))
    return f" {quoted}: {percent(found.rate.median / (peak * share))} of it."


def _memory(figures: DeviceFigures, row: CatalogChip | None, share: float) -> list[str]:
    free, total = size(figures.free_memory_bytes), size(figures.total_memory_bytes)
    line = f"What was free: {free} of {total}."
    if row is not None and row.memory_gb is not None:
        line += f" {_quote(row, 'memory_gb', f'{row.memory_gb * share:g} GB')}."
    return [line]


def _bandwidth(figures: DeviceFigures, row: CatalogChip | None, share: float) -> list[str]:
    rate = _spread(figures.memory_bandwidth, "B/s")
    line = f"A large copy, bytes read and bytes written: {rate}."
    if row is not None and row.mem_bandwidth_gbps is not None:
        quoted = si(row.mem_bandwidth_gbps * share * 1e9, "B/s")
        line += f" {_quote(row, 'mem_bandwidth_gbps', quoted)}."
    lines = [line]
    if figures.host_to_device is not None and figures.device_to_host is not None:
        to_device = si(figures.host_to_device.median, "B/s")
        to_host = si(figures.device_to_host.median, "B/s")
        lines.append(f"Copies from the host {to_device}, to the host {to_host}.")
    return lines


def _price(row: CatalogChip | None) -> list[str]:
    line = "usd_per_hour = ...  is not measured: give what you pay, for your own accounts."
    if row is None or row.cloud_usd_per_hour is None:
        return [line]
    price = f"{row.cloud_usd_per_hour:g} USD per hour"
    return [line, f"{_quote(row, 'cloud_usd_per_hour', price)}."]


def _quote(row: CatalogChip, column: str, figure: str) -> str:
    return f"Quoted {figure} ({row.origin_of(column)})"


def _spread(rate: Rate, unit: str) -> str:
    """Median, best and number of windows."""
    return f"{si(rate.median, unit)} (best {si(rate.best, unit)}, {rate.num_windows} windows)"
