"""What one device does: matmul rate by dtype, memory bandwidth, host copies, a training block.

Work is repeated in windows that end with a synchronize; a figure is the median of its windows, so
that a busy neighbour or a boost clock does not decide it. Every part has a share of one budget of
seconds. Nothing is assumed about a dtype: one that fails or returns wrong products is left out.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from motley.chips import host, training_block, vendors
from motley.chips.precision import choose_precision
from motley.errors import ProbeError
from motley.units import BYTES_PER_ELEMENT, Precision, percent, si, size

if TYPE_CHECKING:
    import torch

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
CPU_SIZES = (256, 512, 1024, 2048, 4096)
ACCELERATOR_SIZES = (1024, 2048, 4096, 8192, 16384)
"""Edges of the square matrices."""
DEFAULT_SECONDS = 10.0
WINDOW_S = 0.04
MIN_WINDOWS = 3
MAX_WINDOWS = 64
MAX_CALLS = 100
"""Per window, so that a machine which gets busy after the first call cannot stretch a window."""

MATMUL_SHARE = 0.18
"""Of the seconds, per dtype."""
BANDWIDTH_SHARE = 0.1
COPY_SHARE = 0.04
TRAINING_SHARE = 0.3

CPU_COPY_BYTES = 2**28
ACCELERATOR_COPY_BYTES = 2**30
"""Far more than any cache."""

CHECK_DEVICE = "Check the driver, the PyTorch build, and whether other processes hold its memory."


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Units per second over several windows."""

    median: float
    best: float
    num_windows: int

    @classmethod
    def of(cls, units: float, seconds: list[float]) -> Rate:
        """The rate of `units` of work per call, from each window's seconds per call."""
        return cls(
            median=units / statistics.median(seconds),
            best=units / min(seconds),
            num_windows=len(seconds),
        )


@dataclass(frozen=True, kw_only=True)
class MatmulRate:
    """FLOP/s of one square size (2 n^3 FLOPs); the size with the best median stands for a dtype."""

    size: int
    rate: Rate


@dataclass(frozen=True, kw_only=True)
class DeviceFigures:
    """All that was measured of one device. Bandwidths are bytes/s."""

    device: str
    name: str
    """What the driver calls it; may be empty."""
    total_memory_bytes: int
    free_memory_bytes: int
    """Before the measurement."""
    matmul: Mapping[Precision, MatmulRate]
    unusable: Mapping[Precision, str]
    """Dtypes that do not work here, and why."""
    precision: Precision
    reason: str
    memory_bandwidth: Rate
    """Of a large copy; bytes read and bytes written count."""
    host_to_device: Rate | None
    device_to_host: Rate | None
    training: Rate
    """FLOP/s of the training block in `precision`."""
    training_shape: training_block.BlockShape
    training_efficiency: float
    """Training FLOP/s over the matmul FLOP/s of `precision`."""
    others_share: float | None
    """Part of the host's CPU time that other processes took meanwhile; `None` if unknown."""
    kernels: str = ""
    """Whether training ran on the native CPU kernels, or why not; empty for an accelerator."""


def measure_device(
    device: torch.device, report: Callable[[str], None], seconds: float = DEFAULT_SECONDS
) -> DeviceFigures:
    """Measures `device` for about `seconds`; `report` gets one line per finished part.

    `ProbeError` if no training works on it, or it fails while it is measured.
    """
    try:
        return _measured(device, report, seconds)
    except RuntimeError as cause:  # what PyTorch's backends raise, OutOfMemoryError too
        raise ProbeError(f"{device} fails: {_first_line(cause)}", remedy=CHECK_DEVICE) from cause


def _measured(device: torch.device, report: Callable[[str], None], seconds: float) -> DeviceFigures:
    free, total = vendors.memory_info(device)
    others = host.OtherLoad()
    matmul, unusable = _measure_dtypes(device, free, seconds * MATMUL_SHARE, report)
    if not matmul:
        raise ProbeError(f"no matmul works on {device}.", remedy=CHECK_DEVICE)
    bandwidth = measure_memory_bandwidth(device, free, seconds * BANDWIDTH_SHARE)
    report(f"{device}: memory {si(bandwidth.median, 'B/s')}, {size(free)} free of {size(total)}")
    to_device, to_host = measure_host_copies(device, free, seconds * COPY_SHARE)
    shape = training_block.shape_for(device.type)
    with _as_in_training(device) as about_kernels:
        if about_kernels:
            report(f"{device}: {about_kernels}")
        precision, reason, training = _measure_training(
            device, shape, matmul, unusable, seconds * TRAINING_SHARE
        )
    report(f"{device}: trains in {reason}")
    efficiency = training.median / matmul[precision].rate.median
    report(f"{device}: a transformer block reaches {percent(efficiency)} of that matmul rate")
    return DeviceFigures(
        device=str(device),
        name=vendors.device_name(device),
        total_memory_bytes=total,
        free_memory_bytes=free,
        matmul=matmul,
        unusable=unusable,
        precision=precision,
        reason=reason,
        memory_bandwidth=bandwidth,
        host_to_device=to_device,
        device_to_host=to_host,
        training=training,
        training_shape=shape,
        training_efficiency=efficiency,
        others_share=others.share(),
        kernels=about_kernels,
    )


def time_windows(
    work: Callable[[], object], wait: Callable[[], None], seconds: float
) -> list[float]:
    """Seconds per call of `work`, one figure per window, after one call to warm up.

    Runs for about `seconds`, but for `MIN_WINDOWS` windows at least. `wait` ends each window.
    """
    work()
    wait()
    once = _time_calls(work, wait, 1)
    num_calls = min(MAX_CALLS, max(1, round(WINDOW_S / max(once, 1e-9))))
    deadline = time.perf_counter() + seconds
    windows: list[float] = []
    while len(windows) < MIN_WINDOWS or time.perf_counter() < deadline:
        windows.append(_time_calls(work, wait, num_calls) / num_calls)
        if len(windows) == MAX_WINDOWS:
            break
    return windows


def _time_calls(work: Callable[[], object], wait: Callable[[], None], num_calls: int) -> float:
    start = time.perf_counter()
    for _ in range(num_calls):
        work()
    wait()
    return time.perf_counter() - start


def _measure_dtypes(
    device: torch.device, free: int, seconds: float, report: Callable[[str], None]
) -> tuple[dict[Precision, MatmulRate], dict[Precision, str]]:
    rates: dict[Precision, MatmulRate] = {}
    unusable: dict[Precision, str] = {}
    for precision in PRECISIONS:
        fault = _fault(device, _dtype(precision))
        if fault:
            unusable[precision] = fault
            report(f"{device}: no {precision}: {fault}")
            continue
        found = measure_matmul(device, precision, free, seconds)
        rates[precision] = found
        rate = si(found.rate.median, "FLOP/s")
        report(f"{device}: {precision} matmul {rate} at size {found.size}")
    return rates, unusable


def _dtype(precision: Precision) -> torch.dtype:
    import torch

    if precision == "fp8":
        raise ProbeError(
            "fp8 matmuls are not measured.", remedy="Give flops_per_s.fp8 in the chip's table."
        )
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def _fault(device: torch.device, dtype: torch.dtype) -> str:
    """Why matmuls in `dtype` cannot be used on `device`; empty if they can."""
    import torch

    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(64, 64, generator=generator).to(dtype) for _ in range(2))
    expected = left.float() @ right.float()
    try:
        product = (left.to(device) @ right.to(device)).float().cpu()
    except (RuntimeError, TypeError) as cause:
        return _first_line(cause)
    # 2 % of the largest entry: bf16 rounds the result to 0.4 %.
    if not (product - expected).abs().max() <= 0.02 * expected.abs().max():
        return "its products are wrong"
    return ""


def _first_line(cause: Exception) -> str:
    lines = str(cause).splitlines()
    return lines[0] if lines else type(cause).__name__


def measure_matmul(
    device: torch.device, precision: Precision, free_bytes: int, seconds: float
) -> MatmulRate:
    """The best sustained square matmul in about `seconds`.

    Sizes grow until the next one would not fit the time or a quarter of the free memory.
    """
    import torch

    sizes = CPU_SIZES if device.type == "cpu" else ACCELERATOR_SIZES
    dtype, deadline = _dtype(precision), time.perf_counter() + seconds
    results: list[MatmulRate] = []
    per_call = 0.0
    for position, edge in enumerate(sizes):
        too_large = 3 * edge**2 * BYTES_PER_ELEMENT[precision] > free_bytes / 4
        too_slow = 8 * per_call * (MIN_WINDOWS + 2) > 2 * (deadline - time.perf_counter())
        if results and (too_large or too_slow):
            break
        left, right = (torch.randn(edge, edge).to(device, dtype) for _ in range(2))
        out = torch.empty_like(left)
        # Each size gets as much time as all smaller ones.
        share = seconds / 2 ** (len(sizes) - position)
        multiply = partial(torch.matmul, left, right, out=out)
        windows = time_windows(multiply, partial(vendors.synchronize, device), share)
        per_call = statistics.median(windows)
        results.append(MatmulRate(size=edge, rate=Rate.of(2.0 * edge**3, windows)))
    return max(results, key=lambda result: result.rate.median)


def measure_memory_bandwidth(device: torch.device, free_bytes: int, seconds: float) -> Rate:
    """Bytes read plus bytes written per second by a large copy inside the device's memory."""
    import torch

    wanted = CPU_COPY_BYTES if device.type == "cpu" else ACCELERATOR_COPY_BYTES
    num_bytes = min(wanted, free_bytes // 8)
    origin = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.zeros_like(origin)
    copy, wait = partial(target.copy_, origin), partial(vendors.synchronize, device)
    windows = time_windows(copy, wait, seconds)
    return Rate.of(2.0 * num_bytes, windows)


def measure_host_copies(
    device: torch.device, free_bytes: int, seconds: float
) -> tuple[Rate | None, Rate | None]:
    """Bytes per second to the device and back, from pinned memory where there is such; no figures
    for a CPU."""
    import torch

    if device.type == "cpu":
        return None, None
    num_bytes = min(CPU_COPY_BYTES, free_bytes // 8)
    on_host = torch.zeros(num_bytes, dtype=torch.uint8)
    with contextlib.suppress(RuntimeError):
        on_host = on_host.pin_memory()
    on_device = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    wait = partial(vendors.synchronize, device)
    to_device = time_windows(partial(on_device.copy_, on_host), wait, seconds)
    to_host = time_windows(partial(on_host.copy_, on_device), wait, seconds)
    return Rate.of(float(num_bytes), to_device), Rate.of(float(num_bytes), to_host)


@contextlib.contextmanager
def _as_in_training(device: torch.device) -> Iterator[str]:
    """Keeps a CPU's freed memory, and its kernels on inside, as a training does; their sentence."""
    from motley import kernels

    if device.type != "cpu":
        yield ""
        return
    host.keep_freed_memory()
    try:
        yield kernels.enable()
    finally:
        kernels.disable()


def _measure_training(
    device: torch.device,
    shape: training_block.BlockShape,
    matmul: Mapping[Precision, MatmulRate],
    unusable: dict[Precision, str],
    seconds: float,
) -> tuple[Precision, str, Rate]:
    """The training dtype, why, and its rate. A dtype in which the block fails becomes unusable."""
    left = {precision: found.rate.median for precision, found in matmul.items()}
    while left:
        precision, reason = choose_precision(left)
        try:
            step = training_block.training_step(shape, device, _dtype(precision))
            windows = time_windows(step, partial(vendors.synchronize, device), seconds)
        except (RuntimeError, TypeError) as cause:
            unusable[precision] = f"a training step fails: {_first_line(cause)}"
            del left[precision]
            continue
        return precision, reason, Rate.of(shape.flops, windows)
    faults = "; ".join(f"{precision}: {fault}" for precision, fault in unusable.items())
    raise ProbeError(
        f"no training step works on {device} ({faults}).",
        remedy=CHECK_DEVICE,
    )
