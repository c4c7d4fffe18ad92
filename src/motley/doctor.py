"""Looks for what would stop a run on this machine, and says what to do about each finding.

Each check is a small function that returns one `Check`. Nothing is changed: files that a check
needs are written to a temporary folder and removed.
"""

from __future__ import annotations

import datetime
import importlib
import importlib.metadata
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from motley.chips import host, vendors
from motley.errors import MotleyError
from motley.units import duration, size

MIN_FREE_DISK_BYTES = 2**30
"""A checkpoint of the smallest recipes, several times."""
MIN_FREE_MEMORY_BYTES = 2**30
"""PyTorch alone takes 0.3 GiB per process."""
GLOO_TIMEOUT_S = 60.0
COMPILER_TIMEOUT_S = 30.0
CLOCK_SLACK_S = 86400.0


@dataclass(frozen=True, kw_only=True)
class Check:
    """One finding."""

    name: str
    ok: bool | None
    """`None` if nothing is wrong but something is worth knowing or could not be told."""
    detail: str
    remedy: str = ""


def diagnose(report: Callable[[str], None], folder: Path | None = None) -> list[Check]:
    """All checks, for runs in `folder` (the current one by default).

    `report` gets the name of each check before it starts. A check never raises.
    """
    where = folder or Path.cwd()
    temporary = Path(tempfile.gettempdir())
    checks: list[tuple[str, Callable[[str], Check]]] = [
        ("Python", check_python),
        ("PyTorch", check_torch),
        ("C++ compiler", check_compiler),
        ("accelerators", check_accelerators),
        ("CPU", check_cpu),
        ("memory", check_memory),
        ("network port", check_port),
        ("processes talk (gloo)", check_gloo),
        ("current folder", partial(check_folder, folder=where)),
        ("temporary folder", partial(check_folder, folder=temporary)),
        ("clock", check_clock),
    ]
    found = []
    for name, check in checks:
        report(name)
        try:
            found.append(check(name))
        except Exception as cause:  # A broken installation may raise anything: that is a finding.
            found.append(
                Check(
                    name=name,
                    ok=False,
                    detail=f"{type(cause).__name__}: {cause}",
                    remedy="Mend the installation: run pip install --force-reinstall motley.",
                )
            )
    return found


def lower_bound(package: str) -> tuple[int, ...] | None:
    """The least version that motley's own metadata asks for ("python" for the interpreter)."""
    try:
        metadata = importlib.metadata.metadata("motley")
    except importlib.metadata.PackageNotFoundError:
        return None
    wanted = metadata.get_all("Requires-Dist") or []
    wanted += [f"python{needed}" for needed in metadata.get_all("Requires-Python") or []]
    for requirement in wanted:
        found = re.match(rf"{re.escape(package)}\s*>=\s*([\d.]+)", requirement)
        if found:
            return _version(found[1])
    return None


def _version(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: "2.13.0+cpu" -> (2, 13, 0)."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def check_python(name: str) -> Check:
    """The interpreter against the version that motley asks for."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    return _compare(name, version, "python", "Install a newer Python and make a new environment.")


def check_torch(name: str) -> Check:
    """Whether PyTorch imports, and its version."""
    try:
        torch = importlib.import_module("torch")
    except ImportError as cause:
        return Check(
            name=name,
            ok=False,
            detail=f"does not import: {cause}",
            remedy="Install the build for your chips from https://pytorch.org/get-started/locally.",
        )
    remedy = "Install a newer PyTorch: https://pytorch.org/get-started/locally."
    return _compare(name, str(torch.__version__), "torch", remedy)


def _compare(name: str, version: str, package: str, remedy: str) -> Check:
    bound = lower_bound(package)
    if bound is None:
        return Check(name=name, ok=None, detail=f"{version}; motley is not installed as a package")
    needed = ".".join(str(part) for part in bound)
    if _version(version) < bound:
        return Check(name=name, ok=False, detail=f"{version}, needed {needed}", remedy=remedy)
    return Check(name=name, ok=True, detail=f"{version} (needed {needed})")


def check_compiler(name: str) -> Check:
    """A C++ compiler, for the native kernels, that finds Python's headers, for torch.compile."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++", "c++")), None)
    remedy = "Install one (Debian: apt install g++ python3-dev), or train without native kernels."
    if compiler is None:
        return Check(name=name, ok=False, detail="none found", remedy=remedy)
    command = [compiler, "-fsyntax-only", "-x", "c++", "-", f"-I{sysconfig.get_path('include')}"]
    try:
        answer = subprocess.run(
            command,
            input="#include <Python.h>\n#include <vector>\n",
            capture_output=True,
            text=True,
            timeout=COMPILER_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as cause:
        return Check(name=name, ok=False, detail=f"{compiler}: {cause}", remedy=remedy)
    if answer.returncode != 0:
        lines = [line for line in answer.stderr.splitlines() if "error" in line] or ["it fails"]
        return Check(name=name, ok=False, detail=f"{compiler}: {lines[0]}", remedy=remedy)
    return Check(name=name, ok=True, detail=f"{compiler}, with Python's headers")


def check_accelerators(name: str) -> Check:
    """What PyTorch sees besides the CPU."""
    found = [device for device in vendors.available_devices() if device.type != "cpu"]
    if not found:
        return Check(
            name=name,
            ok=None,
            detail="none that PyTorch sees; the CPU will train",
            remedy="If there is one, install its driver and the PyTorch build of its vendor.",
        )
    listed = ", ".join(f"{device} ({vendors.device_name(device)})" for device in found)
    collective = vendors.collective_backend(found[0].type)
    return Check(name=name, ok=True, detail=f"{listed}; collectives by {collective}")


def check_cpu(name: str) -> Check:
    """Hardware threads, and those that PyTorch uses."""
    import torch

    available, used = host.num_threads(), torch.get_num_threads()
    setting = os.environ.get("OMP_NUM_THREADS")
    detail = f"{host.cpu_name() or 'unnamed'}, {available} threads, PyTorch uses {used}"
    detail += f" (OMP_NUM_THREADS={setting})" if setting else ""
    if used > available:
        remedy = (
            f"Set OMP_NUM_THREADS to {available} or unset it: more threads wait for each other."
        )
        return Check(name=name, ok=False, detail=detail, remedy=remedy)
    if setting and used < available:
        remedy = "Unset OMP_NUM_THREADS to let a single process use all threads."
        return Check(name=name, ok=None, detail=detail, remedy=remedy)
    return Check(name=name, ok=True, detail=detail)


def check_memory(name: str) -> Check:
    """Free RAM for this process."""
    free, total = host.memory()
    return Check(
        name=name,
        ok=free >= MIN_FREE_MEMORY_BYTES,
        detail=f"{size(free)} free of {size(total)}",
        remedy="" if free >= MIN_FREE_MEMORY_BYTES else "Close other programs or raise the limit.",
    )


def check_port(name: str) -> Check:
    """Whether a process may listen on a port of this machine."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
    except OSError as cause:
        remedy = "Allow local sockets: a sandbox or a firewall forbids them."
        return Check(name=name, ok=False, detail=f"cannot listen: {cause}", remedy=remedy)
    return Check(name=name, ok=True, detail=f"port {port} of 127.0.0.1 could be taken")


def check_gloo(name: str) -> Check:
    """Two processes exchange messages over loopback."""
    from motley.chips.links import measure_link

    try:
        found = measure_link(seconds=0.2, sizes=(2**10, 2**16), timeout_s=GLOO_TIMEOUT_S)
    except MotleyError as error:
        remedy = "Check that loopback is up and local connections are allowed."
        return Check(name=name, ok=False, detail=error.message, remedy=remedy)
    return Check(
        name=name, ok=True, detail=f"a 1 KiB message takes {duration(found.points[0].seconds)}"
    )


def check_folder(name: str, folder: Path) -> Check:
    """Whether runs can be written to `folder`, and the room that is left."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"motley")
        free = shutil.disk_usage(folder).free
    except OSError as cause:
        remedy = "Make it writable or go to another folder."
        return Check(name=name, ok=False, detail=f"{folder}: {cause.strerror}", remedy=remedy)
    if free < MIN_FREE_DISK_BYTES:
        remedy = "Make room: a checkpoint that does not fit ends the run."
        return Check(name=name, ok=False, detail=f"{folder}: only {size(free)} free", remedy=remedy)
    return Check(name=name, ok=True, detail=f"{folder} is writable, {size(free)} free")


def check_clock(name: str) -> Check:
    """The date is not before this installation, and short times can be told."""
    now, installed = time.time(), Path(__file__).stat().st_mtime
    date = datetime.datetime.fromtimestamp(now, datetime.UTC)
    resolution = time.get_clock_info("perf_counter").resolution
    detail = f"{date:%Y-%m-%d %H:%M} UTC, resolution {duration(resolution)}"
    if now < installed - CLOCK_SLACK_S:
        remedy = "Set the clock (timedatectl set-ntp true): motley was installed after that date."
        return Check(name=name, ok=False, detail=detail, remedy=remedy)
    return Check(name=name, ok=True, detail=detail)
