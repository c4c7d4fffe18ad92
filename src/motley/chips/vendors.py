"""One small interface to every PyTorch backend: its package, its collectives, its devices.

Everything goes through `torch.accelerator`, which names one accelerator type per process, and the
device module of that type. The table holds what PyTorch cannot say about a backend before its
package is imported. Two backends never share a process group, even where their libraries' names
are equal: edges between unlike chips go over host memory.
"""

from __future__ import annotations

import importlib
import importlib.util
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from motley.chips import host

if TYPE_CHECKING:
    import torch

HOST_COLLECTIVE = "gloo"
"""Reaches every chip, over host memory."""


@dataclass(frozen=True, kw_only=True)
class Backend:
    """How PyTorch drives one type of device."""

    device_type: str
    vendors: tuple[str, ...]
    """As the catalog spells them."""
    collective: str
    """The name for `init_process_group`."""
    package: str | None = None
    """To import before the device exists; `None` if it is in PyTorch itself."""
    collective_package: str | None = None
    """To import before the collective exists, if that is another one."""
    note: str = ""


_TABLE = (
    Backend(
        device_type="cuda",
        vendors=("NVIDIA", "AMD", "Hygon", "MetaX", "Iluvatar", "Kunlunxin"),
        collective="nccl",
        note="Every vendor's build calls its own library nccl (RCCL, DUCCL, MCCL, ixccl, BKCL); "
        "none of them talks to another's.",
    ),
    Backend(
        device_type="xpu",
        vendors=("Intel",),
        collective="xccl",
        note="Kunlunxin's library is called XCCL too.",
    ),
    Backend(
        device_type="npu",
        vendors=("Huawei",),
        collective="hccl",
        package="torch_npu",
        note="Another library than Gaudi's hccl.",
    ),
    Backend(
        device_type="hpu",
        vendors=("Intel",),
        collective="hccl",
        package="habana_frameworks.torch",
        collective_package="habana_frameworks.torch.distributed.hccl",
        note="Another library than Ascend's hccl.",
    ),
    Backend(device_type="mlu", vendors=("Cambricon",), collective="cncl", package="torch_mlu"),
    Backend(
        device_type="musa",
        vendors=("Moore Threads",),
        collective="mccl",
        package="torch_musa",
        note="MetaX calls its library MCCL too.",
    ),
    Backend(device_type="gcu", vendors=("Enflame",), collective="eccl", package="torch_gcu"),
    Backend(
        device_type="mps",
        vendors=("Apple",),
        collective=HOST_COLLECTIVE,
        note="No library of its own: PyTorch copies through the host.",
    ),
    Backend(device_type="cpu", vendors=(), collective=HOST_COLLECTIVE),
)

BACKENDS: Mapping[str, Backend] = types.MappingProxyType(
    {backend.device_type: backend for backend in _TABLE}
)
"""By device type. XLA devices (TPU, Trainium) are not eager and not among them."""


def available_devices() -> list[torch.device]:
    """Every device that PyTorch can see here: the accelerators in order, then the CPU."""
    import torch

    accelerator = _accelerator()
    devices = [torch.device("cpu")]
    if accelerator is None:
        return devices
    count = torch.accelerator.device_count()
    return [torch.device(accelerator.type, index) for index in range(count)] + devices


def _accelerator() -> torch.device | None:
    """The accelerator of this process; imports the first installed vendor package if needed.

    PyTorch allows one accelerator per process, so no second package is imported.
    """
    import torch

    found = torch.accelerator.current_accelerator(check_available=True)
    for backend in _TABLE:
        if found is not None:
            break
        if backend.package is not None and _is_installed(backend.package):
            importlib.import_module(backend.package)
            found = torch.accelerator.current_accelerator(check_available=True)
    return found


def _is_installed(package: str) -> bool:
    """Looks at the top-level package only: nothing is imported."""
    return importlib.util.find_spec(package.split(".")[0]) is not None


def collective_backend(device_type: str) -> str:
    """The collective backend for groups of this device type; gloo where none is known.

    Imports the package that the backend needs, if it is installed. A plugin that is not in the
    table is asked for by what it registered with PyTorch.
    """
    backend = BACKENDS.get(device_type)
    if backend is not None:
        if backend.collective_package and _is_installed(backend.collective_package):
            importlib.import_module(backend.collective_package)
        return backend.collective
    import torch.distributed

    registered: dict[str, str] = torch.distributed.Backend.default_device_backend_map
    return registered.get(device_type, HOST_COLLECTIVE)


def common_collective(device_types: Iterable[str], vendors: Iterable[str] = ()) -> str | None:
    """The backend of one group over devices of these types; `None` for no devices.

    Unlike types share only gloo, over host memory. So do unlike `vendors` of one type: an NVIDIA
    and an AMD device are both "cuda" with "nccl", but with different libraries.
    """
    kinds = {device_type.split(":")[0] for device_type in device_types}
    if not kinds:
        return None
    if len(kinds) > 1 or len(set(vendors)) > 1:
        return HOST_COLLECTIVE
    return collective_backend(kinds.pop())


def synchronize(device: torch.device) -> None:
    """Waits until `device` has done all that was issued to it."""
    import torch

    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def memory_info(device: torch.device) -> tuple[int, int]:
    """Free and total bytes: of the accelerator, or of the RAM that this process may use."""
    if device.type == "cpu":
        return host.memory()
    import torch

    if device.type == "mps":
        limit = torch.mps.recommended_max_memory()
        return limit - torch.mps.driver_allocated_memory(), limit
    module: Any = torch.get_device_module(device)
    ask = getattr(module, "mem_get_info", None) or torch.accelerator.get_memory_info
    free, total = ask(device)
    return int(free), int(total)


def device_name(device: torch.device) -> str:
    """What the driver calls the device; empty if it does not say."""
    if device.type == "cpu":
        return host.cpu_name()
    import torch

    if device.type == "mps":
        return f"{torch.backends.mps.get_name()} ({torch.backends.mps.get_core_count()}-core GPU)"
    ask = getattr(torch.get_device_module(device), "get_device_name", None)
    return str(ask(device)) if ask else ""


def nominal_memory_bytes(device: torch.device) -> int:
    """The memory that the chip is sold with, to tell variants of one name apart."""
    return host.installed_memory() if device.type == "mps" else memory_info(device)[1]
