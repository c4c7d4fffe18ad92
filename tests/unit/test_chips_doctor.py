"""The doctor's checks: what they find here, and what they say when something is wrong."""

from __future__ import annotations

import importlib
import os
import shutil
import socket
import tomllib
from pathlib import Path

import pytest

from motley import doctor
from motley.errors import ProbeError

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_all_checks_run_and_a_failed_one_has_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        doctor, "check_gloo", lambda name: doctor.Check(name=name, ok=True, detail="")
    )
    names: list[str] = []
    checks = doctor.diagnose(names.append, tmp_path)
    assert [check.name for check in checks] == names
    assert len(set(names)) == len(names)
    for check in checks:
        assert check.ok is not False or check.remedy, check
    assert list(tmp_path.iterdir()) == []


def test_a_check_that_raises_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(name: str) -> doctor.Check:
        raise OSError("no such driver")

    for check in ("check_gloo", "check_accelerators"):
        monkeypatch.setattr(doctor, check, broken)
    found = {check.name: check for check in doctor.diagnose(lambda line: None, tmp_path)}
    assert found["accelerators"].ok is False
    assert "no such driver" in found["accelerators"].detail


def test_versions_are_compared_with_the_packages_own_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "lower_bound", lambda package: (99, 0))
    for check in (doctor.check_python("x"), doctor.check_torch("x")):
        assert check.ok is False
        assert "needed 99.0" in check.detail
        assert check.remedy
    monkeypatch.setattr(doctor, "lower_bound", lambda package: (1, 0))
    assert doctor.check_torch("x").ok is True
    monkeypatch.setattr(doctor, "lower_bound", lambda package: None)
    assert doctor.check_torch("x").ok is None


def test_bounds_come_from_the_installed_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    from email.message import Message

    project = tomllib.loads(PYPROJECT.read_text())["project"]
    metadata = Message()
    metadata["Requires-Python"] = project["requires-python"]
    for requirement in project["dependencies"]:
        metadata["Requires-Dist"] = requirement
    monkeypatch.setattr(doctor.importlib.metadata, "metadata", lambda name: metadata)
    assert doctor.lower_bound("python") == (3, 11)
    assert (doctor.lower_bound("torch") or ()) >= (2, 0)
    assert doctor.lower_bound("nothing-of-ours") is None


def test_torch_that_does_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> object:
        raise ImportError("libcudart.so: no such file")

    monkeypatch.setattr(importlib, "import_module", fail)
    check = doctor.check_torch("x")
    assert check.ok is False
    assert "libcudart.so" in check.detail


def test_no_compiler_and_one_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert doctor.check_compiler("x").ok is False
    monkeypatch.setenv("CXX", "/no/such/compiler")
    check = doctor.check_compiler("x")
    assert check.ok is False
    assert "apt install" in check.remedy


def test_more_threads_than_the_cpu_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.host, "num_threads", lambda: 0)
    check = doctor.check_cpu("x")
    assert check.ok is False
    assert "OMP_NUM_THREADS" in check.remedy


def test_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.host, "memory", lambda: (2**20, 2**33))
    check = doctor.check_memory("x")
    assert check.ok is False
    assert check.remedy


def test_no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(address: object) -> socket.socket:
        raise PermissionError("forbidden")

    monkeypatch.setattr(socket, "create_server", refuse)
    assert doctor.check_port("x").ok is False


def test_gloo_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> object:
        raise ProbeError("no answer from process 1")

    monkeypatch.setattr("motley.chips.links.measure_link", fail)
    check = doctor.check_gloo("x")
    assert check.ok is False
    assert "process 1" in check.detail


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_folder("x", tmp_path / "missing").ok is False
    usage = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    check = doctor.check_folder("x", tmp_path)
    assert check.ok is False
    assert "1 MiB free" in check.detail


def test_a_clock_before_the_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = os.stat(doctor.__file__).st_mtime
    monkeypatch.setattr(doctor.time, "time", lambda: installed - 10 * 86400)
    assert doctor.check_clock("x").ok is False
