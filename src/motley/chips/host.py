"""What the operating system says about the host: its CPU, its threads, its memory."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path

_CGROUP_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Limit and use of the container's memory, in cgroup version 2 and version 1."""


def num_threads() -> int:
    """Hardware threads that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """The processor's own name, such as "AMD EPYC 9654 96-Core Processor"; empty if unknown."""
    for line in _read("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return _sysctl("machdep.cpu.brand_string") or platform.processor()


def installed_memory() -> int:
    """Bytes of RAM in the machine."""
    reported = _sysctl("hw.memsize") if platform.system() == "Darwin" else ""
    return int(reported) if reported else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def memory() -> tuple[int, int]:
    """Free and total bytes of RAM for this process, within the limit of its container."""
    total = installed_memory()
    free = _meminfo("MemAvailable")
    if free is None:
        free = int(_sysctl("vm.page_free_count") or "0") * os.sysconf("SC_PAGE_SIZE")
    for limit_file, use_file in _CGROUP_LIMITS:
        limit, use = _read(limit_file).strip(), _read(use_file).strip()
        if limit.isdigit() and use.isdigit() and int(limit) < total:
            return min(free, max(0, int(limit) - int(use))), int(limit)
    return free, total


class OtherLoad:
    """What other processes, and other guests of the same host, take of the CPU from now on."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._busy_s = _busy_s()
        self._own_s = _own_s()

    def share(self) -> float | None:
        """Their part of all CPU time so far, 0 to 1; `None` where the system does not tell."""
        busy_s = _busy_s()
        if busy_s is None or self._busy_s is None:
            return None
        others_s = (busy_s - self._busy_s) - (_own_s() - self._own_s)
        available_s = (time.monotonic() - self._start) * (os.cpu_count() or 1)
        return min(1.0, max(0.0, others_s / available_s)) if available_s > 0 else 0.0


def _own_s() -> float:
    """CPU seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


def _busy_s() -> float | None:
    """CPU seconds that were not idle on all cores since the system started, steal included."""
    fields = _read("/proc/stat").partition("\n")[0].split()
    if len(fields) < 9:
        return None
    user, nice, system, _, _, irq, softirq, steal = (int(field) for field in fields[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _meminfo(key: str) -> int | None:
    for line in _read("/proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    return None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def _sysctl(key: str) -> str:
    """A value of the BSDs' and macOS's `sysctl`; empty elsewhere."""
    if platform.system() == "Linux":
        return ""
    try:
        answer = subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
"""Parameters of glibc's `mallopt`, from malloc.h."""


def keep_freed_memory() -> bool:
    """Makes the C library keep freed memory for the next tensor; whether it could be told to.

    glibc gives large blocks back to the system at once, so that each step of a training on a CPU
    pays for the same pages again: 15 to 30 % of a step of a 10M-parameter model (measured).
    """
    import ctypes

    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = {
        _M_MMAP_THRESHOLD: 2**30,
        _M_TRIM_THRESHOLD: 2**31 - 1,
        _M_TOP_PAD: 64 * 2**20,
    }
    return all(mallopt(key, value) == 1 for key, value in settings.items())
