"""Builds and loads the optional C++ kernels for CPUs with AMX; without them plain PyTorch is used.

They are off until `enable` is called, which a training on a real CPU does: an emulated chip stays
with PyTorch's own operations, whose memory the planner counts to the byte.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

_HERE = Path(__file__).parent
_SOURCES = ("vec.h", "attention_pack.h", "attention.cpp", "weight_gradient.cpp", "pointwise.cpp")
_NEEDED_FLAGS = {
    "avx512f",
    "avx512bw",
    "avx512dq",
    "avx512vl",
    "avx512_bf16",
    "amx_tile",
    "amx_bf16",
}
_INSTRUCTIONS = (
    *("fma", "avx2", "bmi2", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512bf16"),
    *("amx-tile", "amx-bf16"),
)
_COMPILER_FLAGS = (
    *("-O3", "-std=c++17", "-shared", "-fPIC", "-fopenmp", "-fno-math-errno", "-w"),
    *(f"-m{name}" for name in _INSTRUCTIONS),
)


class UnavailableError(Exception):
    """The kernels cannot be used here; the message says why."""


_enabled: list[ctypes.CDLL] = []


def enable() -> str:
    """Compiles (at first use) and switches the kernels on; a sentence that says so, or why not."""
    if _enabled:
        return "Native CPU kernels are on."
    try:
        _enabled.append(_load())
    except (UnavailableError, OSError, RuntimeError) as reason:
        return f"Native CPU kernels are off, PyTorch's own are used: {reason}."
    return "Native CPU kernels are on: attention, weight gradients, GELU, norms and loss."


def disable() -> None:
    """Back to PyTorch's own operations."""
    _enabled.clear()


def _load() -> ctypes.CDLL:
    missing = _NEEDED_FLAGS - _cpu_flags()
    if missing:
        raise UnavailableError(f"the CPU lacks {', '.join(sorted(missing))}")
    library = ctypes.CDLL(str(_built()))
    if not library.motley_enable_amx():
        raise UnavailableError("the operating system refuses AMX to this process")
    return library


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next(
        (set(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), set()
    )


def _built() -> Path:
    """The path of the compiled library, building it when this version of the sources is new."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        raise UnavailableError("no C++ compiler (g++ or clang++) is installed")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "motley"
    digest = hashlib.sha256(" ".join([compiler, *_COMPILER_FLAGS]).encode())
    for name in _SOURCES:
        digest.update((_HERE / name).read_bytes())
    library = cache / f"kernels-{digest.hexdigest()[:16]}.so"
    if not library.exists():
        cache.mkdir(parents=True, exist_ok=True)
        _compile(compiler, library)
    return library


def _compile(compiler: str, library: Path) -> None:
    """Compiles beside the library and renames, so that processes that race agree."""
    handle, temporary = tempfile.mkstemp(dir=library.parent, suffix=".so")
    os.close(handle)
    sources = [str(_HERE / name) for name in _SOURCES if name.endswith(".cpp")]
    command = [compiler, *_COMPILER_FLAGS, *sources, "-o", temporary]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise UnavailableError(f"{compiler} failed: {done.stderr.strip()[-400:]}")
        os.replace(temporary, library)
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{compiler} took over 300 seconds") from None
    finally:
        Path(temporary).unlink(missing_ok=True)


def usable(*tensors: torch.Tensor) -> bool:
    """Whether the kernels are on and can take these: plain bf16 tensors on the CPU."""
    if not _enabled:
        return False
    plain = all(type(t) in (torch.Tensor, torch.nn.Parameter) for t in tensors)
    half = all(t.device.type == "cpu" and t.dtype == torch.bfloat16 for t in tensors)
    return plain and half


def library() -> ctypes.CDLL:
    """The kernels, where `usable` has said that they are there."""
    return _enabled[0]


def apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """Runs an autograd function (whose `apply` PyTorch leaves untyped)."""
    return function.apply(*arguments)  # type: ignore[no-untyped-call]


def pointer(tensor: torch.Tensor | None) -> ctypes.c_void_p:
    """The address of a tensor's first element, or null."""
    return ctypes.c_void_p(0 if tensor is None else tensor.data_ptr())


def size(value: int) -> ctypes.c_int64:
    """A 64-bit integer argument."""
    return ctypes.c_int64(value)


def pointers(tensors: Sequence[torch.Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    """An array of tensor addresses."""
    return (ctypes.c_void_p * len(tensors))(*(t.data_ptr() for t in tensors))


def sizes(values: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    """An array of 64-bit integers."""
    return (ctypes.c_int64 * len(values))(*values)
