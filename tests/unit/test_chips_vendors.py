"""The interface to the PyTorch backends, as far as a machine without accelerators can show it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from motley.chips import host, vendors


@pytest.mark.parametrize(
    ("device_type", "backend"),
    [
        ("cpu", "gloo"),
        ("cuda", "nccl"),
        ("xpu", "xccl"),
        ("npu", "hccl"),
        ("hpu", "hccl"),
        ("mlu", "cncl"),
        ("musa", "mccl"),
        ("gcu", "eccl"),
        ("mps", "gloo"),
        ("a-plugin-of-tomorrow", "gloo"),
    ],
)
def test_collective_backend(device_type: str, backend: str) -> None:
    assert vendors.collective_backend(device_type) == backend


@pytest.mark.parametrize(
    ("types", "makers", "backend"),
    [
        ([], [], None),
        (["cpu", "cpu"], [], "gloo"),
        (["cuda:0", "cuda:1"], [], "nccl"),
        (["cuda", "cuda"], ["NVIDIA", "NVIDIA"], "nccl"),
        (["cuda", "cuda"], ["NVIDIA", "AMD"], "gloo"),
        (["cuda", "npu"], [], "gloo"),
        (["npu", "hpu"], [], "gloo"),
        (["cuda", "cpu"], [], "gloo"),
    ],
)
def test_common_collective(types: list[str], makers: list[str], backend: str | None) -> None:
    assert vendors.common_collective(types, makers) == backend


def test_pytorch_agrees_where_it_knows_the_device() -> None:
    known = torch.distributed.Backend.default_device_backend_map
    real = {device_type: name for device_type, name in known.items() if name != "fake"}
    assert {"cpu", "cuda", "xpu"} <= real.keys()
    for device_type in real.keys() & vendors.BACKENDS.keys():
        assert vendors.BACKENDS[device_type].collective == real[device_type]


def test_the_cpu_is_always_there_and_last() -> None:
    devices = vendors.available_devices()
    assert devices[-1] == torch.device("cpu")
    assert len({device.type for device in devices}) <= 2


def test_cpu_memory_and_name() -> None:
    cpu = torch.device("cpu")
    free, total = vendors.memory_info(cpu)
    assert 0 < free <= total <= host.installed_memory()
    assert isinstance(vendors.device_name(cpu), str)
    vendors.synchronize(cpu)


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, use = tmp_path / "max", tmp_path / "current"
    limit.write_text(f"{2**28}\n")
    use.write_text(f"{2**27}\n")
    monkeypatch.setattr(host, "_CGROUP_LIMITS", ((str(limit), str(use)),))
    assert host.memory() == (2**27, 2**28)
    limit.write_text("max\n")
    assert host.memory()[1] == host.installed_memory()


def test_the_load_of_others_is_a_share() -> None:
    share = host.OtherLoad().share()
    assert share is None or 0 <= share <= 1
