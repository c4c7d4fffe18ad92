"""Names, kinds, comments and text of a probed cluster, from made-up figures."""

from __future__ import annotations

import dataclasses
import datetime
import tomllib

import pytest
import torch

from motley.chips import host, measure, training_block, vendors
from motley.chips.catalog import look_up
from motley.chips.chip import Chip, Link
from motley.chips.cluster_text import cluster_toml, link_key
from motley.chips.driver_names import quoted_peak
from motley.chips.link_fit import LinkPoint
from motley.chips.measure import DeviceFigures, MatmulRate, Rate
from motley.chips.ping_pong import LinkMeasurement
from motley.chips.probe import chip_name, probe, recognise, unlisted_kind
from motley.chips.probe_comments import chip_comments, file_comments, link_comments
from motley.chips.training_block import BlockShape
from motley.cluster import parse_cluster
from motley.errors import ProbeError


def _rate(value: float) -> Rate:
    return Rate(median=value, best=1.02 * value, num_windows=9)


FIGURES = DeviceFigures(
    device="cuda:0",
    name="AMD Instinct MI250X",
    total_memory_bytes=64 * 2**30,
    free_memory_bytes=63 * 2**30,
    matmul={
        "fp32": MatmulRate(size=4096, rate=_rate(20e12)),
        "bf16": MatmulRate(size=8192, rate=_rate(150e12)),
    },
    unusable={"fp16": "its products are wrong"},
    precision="bf16",
    reason="bf16: its matmul is 7.5x fp32 (150 against 20 TFLOP/s measured).",
    memory_bandwidth=_rate(1.3e12),
    host_to_device=_rate(25e9),
    device_to_host=_rate(24e9),
    training=_rate(90e12),
    training_shape=BlockShape(),
    training_efficiency=0.6,
    others_share=0.01,
)
CHIP = Chip(
    name="gpu0",
    kind="amd-mi250x-128g",
    device="cuda:0",
    precision="bf16",
    flops_per_s={"fp32": 20e12, "bf16": 150e12},
    training_efficiency=0.6,
    memory_bytes=63 * 2**30,
    memory_bandwidth_bytes_per_s=1.3e12,
)
LINK = Link(between=("local", "local"), bandwidth_bytes_per_s=2.345e9, latency_s=5.1e-5)


@pytest.mark.parametrize(
    ("device", "node", "name"),
    [
        ("cuda:0", "local", "gpu0"),
        ("npu:3", "local", "gpu3"),
        ("mps", "local", "gpu0"),
        ("cpu", "local", "cpu"),
        ("cuda:1", "lab", "lab-gpu1"),
    ],
)
def test_chip_names(device: str, node: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch_device = torch.device(device) if not device.startswith("npu") else _Device("npu", 3)
    assert chip_name(torch_device, node) == name  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class _Device:
    """Stands for a device whose package is not installed."""

    type: str
    index: int


def test_kinds_tell_variants_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "num_threads", lambda: 8)
    unlisted = dataclasses.replace(
        FIGURES, name="NVIDIA RTX A6000", total_memory_bytes=round(47.5 * 2**30)
    )
    assert unlisted_kind(torch.device("cuda:0"), unlisted) == "nvidia-rtx-a6000-48gib"
    cpu = dataclasses.replace(FIGURES, name="Intel(R) Xeon(R) Processor")
    assert unlisted_kind(torch.device("cpu"), cpu) == "cpu-intel-xeon-processor-8-threads"
    nameless = dataclasses.replace(FIGURES, name="", total_memory_bytes=2**35)
    assert unlisted_kind(torch.device("cuda:0"), nameless) == "cuda-32gib"


def test_a_part_of_a_cpu_is_not_the_whole_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    figures = dataclasses.replace(FIGURES, name="AMD EPYC 9654 96-Core Processor")
    monkeypatch.setattr(host, "num_threads", lambda: 8)
    assert recognise(cpu, figures) is None
    monkeypatch.setattr(host, "num_threads", lambda: 192)
    row = recognise(cpu, figures)
    assert row is not None
    assert row.id == "cpu-epyc-9654-genoa"


def test_an_accelerator_is_recognised_by_name_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vendors, "memory_info", lambda device: (2**35, 64 * 2**30))
    row = recognise(torch.device("cuda:0"), FIGURES)
    assert row is not None
    assert row.id == "amd-mi250x-128g"


def test_the_text_reads_back_to_the_same_chips_and_links() -> None:
    measurement = LinkMeasurement((0, 1), LINK, (LinkPoint(1024, 6e-5, 9),))
    comments = {
        "": file_comments(datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC)),
        **chip_comments(CHIP, FIGURES, look_up(CHIP.kind)),
        link_key(LINK): link_comments(measurement, "gloo"),
    }
    text = cluster_toml("lab", [CHIP], [LINK], comments)
    cluster = parse_cluster(tomllib.loads(text))
    assert cluster.name == "lab"
    assert cluster.chips == (CHIP,)
    assert cluster.links == (LINK,)
    assert max(len(line) for line in text.splitlines()) <= 100


def test_comments_quote_half_a_row_for_one_of_two_dies() -> None:
    row = look_up("amd-mi250x-128g")
    comments = chip_comments(CHIP, FIGURES, row)
    rates = " ".join(comments["gpu0.flops_per_s"])
    peak = row.peak_flops_per_s("bf16")
    assert peak is not None
    assert f"{150e12 / (peak / 2) * 100:.1f} % of it" in rates
    assert str(row.origin_of("bf16_tflops")) in rates
    assert "This device is 0.5 of it" in comments["gpu0"][0]
    assert "fp16 cannot be used: its products are wrong." in comments["gpu0"]
    assert not any("WARNING" in line for line in comments["gpu0"])


def test_nothing_is_quoted_for_an_unknown_chip_and_other_load_is_a_warning() -> None:
    busy = dataclasses.replace(FIGURES, name="Some GPU", others_share=0.4)
    comments = chip_comments(CHIP, busy, None)
    assert "Quoted" not in " ".join(line for lines in comments.values() for line in lines)
    assert any("WARNING: other processes took 40.0 %" in line for line in comments["gpu0"])


def test_training_above_its_own_matmul_rate_is_a_warning() -> None:
    disturbed = dataclasses.replace(FIGURES, training_efficiency=11.46)
    lines = chip_comments(CHIP, disturbed, None)["gpu0"]
    assert any("training came out faster than its own matmuls" in line for line in lines)


def test_the_efficiency_of_a_cpu_says_on_which_kernels() -> None:
    cpu = dataclasses.replace(FIGURES, kernels="Native CPU kernels are off: no compiler.")
    assert chip_comments(CHIP, cpu, None)["gpu0.training_efficiency"][-1] == cpu.kernels
    assert len(chip_comments(CHIP, FIGURES, None)["gpu0.training_efficiency"]) == 1


def test_strange_names_and_comments_stay_toml() -> None:
    chip = dataclasses.replace(CHIP, name='a "b"\\ \x7f\n', kind="ünlike", usd_per_hour=0.5)
    link = dataclasses.replace(LINK, bandwidth_bytes_per_s=1 / 3, emulated=True)
    comments = {chip.name: ["two\nlines\x00"]}
    cluster = parse_cluster(tomllib.loads(cluster_toml("x", [chip], [link], comments)))
    assert cluster.chips == (chip,)
    assert cluster.links == (link,)


def test_a_quoted_chip_with_a_price_is_written_whole() -> None:
    group = {"kind": "rtx-4090", "count": 2, "site": "here", "price_source": "x", "usd_per_hour": 1}
    made = parse_cluster({"group": [group]})
    link = dataclasses.replace(made.links[0], usd_per_gb=0.5, price_source="y")
    again = parse_cluster(tomllib.loads(cluster_toml("x", made.chips, [link], {})))
    assert again.chips == made.chips
    assert again.links == (link,)


def test_a_measured_chips_quoted_peak_is_that_of_its_part_of_the_row() -> None:
    row = look_up("mi250x-128g")
    whole = row.peak_flops_per_s("bf16")
    assert whole is not None
    assert quoted_peak(CHIP) == whole / 2
    assert quoted_peak(dataclasses.replace(CHIP, kind="no-such-kind")) is None
    assert quoted_peak(dataclasses.replace(CHIP, emulated=True, source="emulated")) is None


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = BlockShape(width=64, sequence_length=16, batch=1, num_blocks=1, head_size=32)
    monkeypatch.setattr(measure, "CPU_SIZES", (64, 128))
    monkeypatch.setattr(measure, "CPU_COPY_BYTES", 2**20)
    monkeypatch.setattr(training_block, "CPU_SHAPE", shape)


@pytest.mark.usefixtures("brief")
def test_a_device_that_cannot_train_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = [torch.device("meta", 0), torch.device("cpu")]  # the first computes nothing
    monkeypatch.setattr(vendors, "available_devices", lambda: devices)
    monkeypatch.setattr(vendors, "device_name", lambda device: f"a card of type {device.type}")
    lines: list[str] = []
    found = probe(lines.append, device_seconds=0.3, link_seconds=0.3)
    assert [chip.name for chip in found.chips] == ["cpu"]
    assert any(line.startswith("meta:0 is left out: ") for line in lines)
    assert "# Left out: meta:0" in found.to_toml()
    parse_cluster(tomllib.loads(found.to_toml()), "probe")


@pytest.mark.usefixtures("brief")
def test_a_machine_without_any_device_that_trains_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vendors, "available_devices", lambda: [torch.device("meta", 0)])
    monkeypatch.setattr(vendors, "device_name", lambda device: "a card")
    with pytest.raises(ProbeError, match="no device of this machine"):
        probe(lambda line: None, device_seconds=0.3)


def test_without_a_working_format_nothing_more_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vendors, "memory_info", lambda device: (2**30, 2**30))
    with pytest.raises(ProbeError, match="no matmul works on meta:0"):
        measure.measure_device(torch.device("meta", 0), lambda line: None, seconds=0.3)
