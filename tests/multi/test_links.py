"""Links between real processes of this machine, and a whole probe; never a speed."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from motley.chips import links, measure, training_block, vendors
from motley.chips.links import measure_link, measure_links
from motley.chips.probe import probe
from motley.chips.training_block import BlockShape
from motley.cluster import parse_cluster
from motley.errors import ProbeError

SIZES = (2**10, 2**14, 2**18)


def test_two_processes_over_loopback() -> None:
    found = measure_link(seconds=0.2, sizes=SIZES)
    assert found.link.source == "measured"
    assert found.link.bandwidth_bytes_per_s > 0
    assert found.link.latency_s >= 0
    assert found.ranks == (0, 1)
    assert [point.num_bytes for point in found.points] == list(SIZES[: len(found.points)])
    assert len(found.points) >= 2
    assert all(point.seconds > 0 for point in found.points)
    assert len(found.table()) == len(found.points)


def test_every_pair_of_three() -> None:
    names = ("a", "b", "c")
    found = measure_links(("cpu",) * 3, "gloo", names, seconds=0.05, sizes=SIZES[:2])
    pairs = {measurement.link.between for measurement in found}
    assert pairs == {("a", "b"), ("a", "c"), ("b", "c")}


def test_a_process_that_fails_is_named_with_its_reason() -> None:
    with pytest.raises(ProbeError, match=r"process \w+ ended with code \d+: .*no-such-backend"):
        measure_links(("cpu",) * 2, "no-such-backend", ("process A", "process B"), seconds=0.1)


def test_who_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = links._start

    def start(folder: Path, rank: int) -> subprocess.Popen[bytes]:
        if rank == 0:
            return real(folder, rank)
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])

    monkeypatch.setattr(links, "_start", start)
    with pytest.raises(ProbeError, match="no answer from silent one"):
        measure_links(("cpu",) * 2, "gloo", ("first", "silent one"), seconds=0.1, timeout_s=2.0)


def test_the_command_measures_the_nodes_of_torchrun(tmp_path: Path) -> None:
    root = str(Path(links.__file__).parents[2])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "motley.chips.links"]
    command += ["--name", "here", "--seconds", "0.1"]
    answer = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
    )
    assert answer.returncode == 0, answer.stderr
    (table,) = tomllib.loads(answer.stdout)["link"]
    assert table["between"] == ["here", "here"]


@pytest.fixture
def small_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "CPU_SIZES", (64, 128))
    monkeypatch.setattr(measure, "CPU_COPY_BYTES", 2**20)
    tiny = BlockShape(width=64, sequence_length=16, batch=1, num_blocks=1, head_size=32)
    monkeypatch.setattr(training_block, "CPU_SHAPE", tiny)
    monkeypatch.setattr(vendors, "available_devices", lambda: [torch.device("cpu")])


@pytest.mark.usefixtures("small_cpu")
def test_a_whole_probe_reads_back_as_a_cluster() -> None:
    lines: list[str] = []
    found = probe(lines.append, device_seconds=0.2, link_seconds=0.2)
    assert [chip.name for chip in found.chips] == ["cpu"]
    assert [link.between for link in found.links] == [("local", "local")]
    text = found.to_toml("here")
    cluster = parse_cluster(tomllib.loads(text))
    assert (cluster.chips, cluster.links) == (found.chips, found.links)
    assert cluster.link("cpu", "cpu") == found.links[0]
    assert "usd_per_hour" in text
    assert any("link local - local" in line for line in lines)


@pytest.mark.usefixtures("small_cpu")
def test_a_link_that_fails_is_reported_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> object:
        raise ProbeError("no answer from process 1", remedy="Try again.")

    monkeypatch.setattr("motley.chips.probe.measure_link", fail)
    lines: list[str] = []
    found = probe(lines.append, device_seconds=0.1)
    assert found.links == ()
    assert any("no answer from process 1" in line for line in lines)
