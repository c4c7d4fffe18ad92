"""The probe on a real accelerator: structure, dtypes, links; never a speed."""

from __future__ import annotations

import tomllib

import pytest
import torch

from motley.chips import vendors
from motley.chips.measure import measure_device
from motley.chips.probe import probe
from motley.cluster import parse_cluster

pytestmark = pytest.mark.skipif(
    not torch.accelerator.is_available(), reason="PyTorch sees no accelerator on this machine"
)


def test_an_accelerator_is_measured_in_every_respect() -> None:
    device = vendors.available_devices()[0]
    figures = measure_device(device, print, seconds=5.0)
    assert figures.name
    assert figures.host_to_device is not None
    assert figures.device_to_host is not None
    assert figures.training_efficiency > 0
    assert 0 < figures.free_memory_bytes <= figures.total_memory_bytes
    for found in figures.matmul.values():
        assert 0 < found.rate.median <= found.rate.best


def test_the_whole_probe_lists_accelerators_first_and_the_cpu_last() -> None:
    found = probe(print, device_seconds=3.0, link_seconds=1.0)
    assert found.chips[0].name == "gpu0"
    assert found.chips[-1].name == "cpu"
    cluster = parse_cluster(tomllib.loads(found.to_toml()))
    assert cluster.chips == found.chips
    assert cluster.links == found.links


def test_pairs_of_accelerators_have_links_of_their_own() -> None:
    devices = [device for device in vendors.available_devices() if device.type != "cpu"]
    if len(devices) < 2:
        pytest.skip("needs two accelerators")
    found = probe(print, device_seconds=1.0, link_seconds=1.0)
    assert ("gpu0", "gpu1") in {link.between for link in found.links}
