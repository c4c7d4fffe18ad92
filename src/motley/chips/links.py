"""Bandwidth and latency of links, between processes of this machine or between nodes.

    python -m motley.chips.links         on one machine: two processes over loopback
    torchrun --nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint HOST:29400 \\
        -m motley.chips.links            between nodes: the same command on each of them

Both print [[link]] tables for cluster.toml. Local processes meet through a file, so that no port
can be taken in between; each writes what it found or what went wrong into one folder.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from motley.chips.chip import Link
from motley.chips.cluster_text import link_table
from motley.chips.link_fit import LinkPoint
from motley.chips.ping_pong import (
    DEFAULT_SECONDS,
    MESSAGE_SIZES,
    LinkMeasurement,
    join,
    measure_pairs,
)
from motley.errors import MotleyError, ProbeError
from motley.units import duration

TIMEOUT_S = 60.0
"""For starting the processes and joining them; the measurement has its own seconds on top."""
POLL_S = 0.02


def measure_link(
    *,
    seconds: float = DEFAULT_SECONDS,
    sizes: Sequence[int] = MESSAGE_SIZES,
    timeout_s: float = TIMEOUT_S,
) -> LinkMeasurement:
    """The path between two processes of this machine: gloo over loopback."""
    names = ("process 0", "process 1")
    (found,) = measure_links(
        ("cpu", "cpu"), "gloo", names, seconds=seconds, sizes=sizes, timeout_s=timeout_s
    )
    return found


def measure_links(
    devices: Sequence[str],
    backend: str,
    names: Sequence[str],
    *,
    seconds: float = DEFAULT_SECONDS,
    sizes: Sequence[int] = MESSAGE_SIZES,
    timeout_s: float = TIMEOUT_S,
) -> list[LinkMeasurement]:
    """Every pair of `devices` of this machine, one process per device; `seconds` for each pair.

    `ProbeError` names the process that failed or did not answer.
    """
    num_pairs = len(devices) * (len(devices) - 1) // 2
    job = {
        "devices": list(devices),
        "backend": backend,
        "names": list(names),
        "seconds": seconds,
        "sizes": list(sizes),
        "timeout_s": timeout_s,
    }
    with tempfile.TemporaryDirectory(prefix="motley-links-") as name:
        folder = Path(name)
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        limit_s = timeout_s + num_pairs * (seconds + timeout_s)
        _run_workers(folder, names, timeout_s, limit_s)
        return _read_result(folder, names)


def _run_workers(folder: Path, names: Sequence[str], timeout_s: float, limit_s: float) -> None:
    """Starts one process per name and waits for all; none is left when it returns."""
    start = time.monotonic()
    with ExitStack() as stack:
        workers = [stack.enter_context(_start(folder, rank)) for rank in range(len(names))]
        try:
            while any(worker.poll() is None for worker in workers):
                if any(worker.poll() for worker in workers) or time.monotonic() > start + limit_s:
                    break
                time.sleep(POLL_S)
            codes = [worker.poll() for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
    elapsed_s = time.monotonic() - start
    if elapsed_s > timeout_s:
        _blame_silent(folder, names, codes, elapsed_s)
    if any(codes):
        _blame_failed(folder, names, codes)


def _start(folder: Path, rank: int) -> subprocess.Popen[bytes]:
    root = str(Path(__file__).parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    if loopback:
        environment["GLOO_SOCKET_IFNAME"] = loopback
    command = [sys.executable, "-m", "motley.chips.link_worker", str(folder), str(rank)]
    with (folder / f"log-{rank}").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def _blame_silent(
    folder: Path, names: Sequence[str], codes: Sequence[int | None], elapsed_s: float
) -> None:
    """`ProbeError` for those that never came up, or else for those that did not finish."""
    running = [rank for rank in range(len(names)) if codes[rank] is None]
    absent = [rank for rank in running if not (folder / f"started-{rank}").exists()]
    late = absent or ([] if any(codes) else running)
    if late:
        raise ProbeError(
            f"the link could not be measured: no answer from "
            f"{', '.join(names[rank] for rank in late)} within {duration(elapsed_s)}.",
            remedy="Run it again when the machine is less busy; 'motley doctor' checks gloo.",
        )


def _blame_failed(folder: Path, names: Sequence[str], codes: Sequence[int | None]) -> None:
    """`ProbeError` for the first process that failed, in its own words."""
    rank = next(rank for rank, code in enumerate(codes) if code)
    fault = _read(folder / f"error-{rank}") or _last_line(folder / f"log-{rank}")
    raise ProbeError(
        f"the link could not be measured: {names[rank]} ended with code {codes[rank]}: "
        f"{fault or 'it said nothing.'}",
        remedy="Run 'motley doctor'.",
    )


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.exists() else ""


def _last_line(path: Path) -> str:
    lines = _read(path).splitlines()
    return lines[-1] if lines else ""


def _read_result(folder: Path, names: Sequence[str]) -> list[LinkMeasurement]:
    entries = json.loads(_read(folder / "result.json"))
    return [
        LinkMeasurement(
            ranks=(first, second),
            link=Link(
                between=(names[first], names[second]),
                bandwidth_bytes_per_s=bandwidth,
                latency_s=latency,
            ),
            points=tuple(LinkPoint(*point) for point in points),
        )
        for first, second, bandwidth, latency, points in entries
    ]


def main() -> None:
    """The command of the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m motley.chips.links", description=__doc__)
    parser.add_argument("--name", default=socket.gethostname(), help="name of this node")
    parser.add_argument("--seconds", type=float, default=DEFAULT_SECONDS, help="for each pair")
    options = parser.parse_args()
    try:
        found = (
            _measure_nodes(options.name, options.seconds)
            if "TORCHELASTIC_RUN_ID" in os.environ
            else [measure_link(seconds=options.seconds)]
        )
    except MotleyError as error:
        sys.exit(str(error))
    for measurement in found:
        print(link_table(measurement.link, measurement.table()))


def _measure_nodes(node: str, seconds: float) -> list[LinkMeasurement]:
    """Every pair of processes that torchrun started, each named by its node."""
    import torch
    import torch.distributed as dist

    rank, num_ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    join("gloo", "env://", rank, num_ranks, TIMEOUT_S)
    try:
        names = [""] * num_ranks
        dist.all_gather_object(names, node)
        return measure_pairs(names, torch.device("cpu"), seconds)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
