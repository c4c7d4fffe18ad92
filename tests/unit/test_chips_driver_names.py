"""What drivers report, and the catalog row that it certainly is, or none."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley.chips.catalog import catalog
from motley.chips.driver_names import RULES, match_device_name, share_of_row

GIB = 2**30

KNOWN = [
    ("Tesla P100-PCIE-16GB", 15.9, "nvidia-p100-pcie-16g"),
    ("NVIDIA GeForce GTX 1080 Ti", 10.9, "nvidia-gtx-1080-ti"),
    ("Tesla V100-SXM2-32GB", 31.7, "nvidia-v100-sxm2-32g"),
    ("Tesla T4", 14.6, "nvidia-t4"),
    ("NVIDIA A10", 22.1, "nvidia-a10"),
    ("NVIDIA A100-SXM4-40GB", 39.4, "nvidia-a100-sxm-40g"),
    ("NVIDIA A100-SXM4-80GB", 79.2, "nvidia-a100-sxm-80g"),
    ("NVIDIA A100 80GB PCIe", 79.2, "nvidia-a100-pcie-80g"),
    ("NVIDIA A800-SXM4-80GB", 79.3, "nvidia-a800-sxm-80g"),
    ("NVIDIA L40S", 44.4, "nvidia-l40s"),
    ("NVIDIA H100 80GB HBM3", 79.1, "nvidia-h100-sxm-80g"),
    ("NVIDIA H100 PCIe", 79.1, "nvidia-h100-pcie-80g"),
    ("NVIDIA H200", 139.8, "nvidia-h200-sxm-141g"),
    ("NVIDIA H20", 95.6, "nvidia-h20-sxm-96g"),
    ("NVIDIA B200", 178.4, "nvidia-b200-sxm-180g"),
    ("NVIDIA GeForce RTX 3060", 11.8, "nvidia-rtx-3060-12g"),
    ("NVIDIA GeForce RTX 3090", 23.7, "nvidia-rtx-3090"),
    ("NVIDIA GeForce RTX 4090", None, "nvidia-rtx-4090"),
    ("NVIDIA GeForce RTX 4090 D", 23.6, "nvidia-rtx-4090d"),
    ("Orin", 61.4, "nvidia-jetson-agx-orin-64g"),
    ("AMD Radeon Instinct MI50", 16.0, "amd-mi50-16g"),
    ("AMD Instinct MI50", 32.0, "amd-mi50-32g"),
    ("AMD Instinct MI250X", 64.0, "amd-mi250x-128g"),
    ("AMD Instinct MI300X", 192.0, "amd-mi300x-192g"),
    ("AMD Radeon RX 7900 XTX", 24.0, "amd-rx-7900-xtx"),
    ("Ascend910B3", 61.0, "huawei-ascend-910b3"),
    ("MLU370-X8", 47.0, "cambricon-mlu370-x8"),
    ("K100_AI", 64.0, "hygon-k100-ai"),
    ("MTT S4000", 48.0, "moorethreads-mtt-s4000"),
    ("Iluvatar BI-V150", 32.0, "iluvatar-bi-v150"),
    ("MetaX C500", 64.0, "metax-c500"),
    ("GAUDI2", 94.6, "intel-gaudi2"),
    ("Intel(R) Data Center GPU Max 1550", 64.0, "intel-max-1550"),
    ("Intel(R) Arc(TM) A770 Graphics", 15.9, "intel-arc-a770-16g"),
    ("Apple M3 Max (40-core GPU)", 128.0, "apple-m3-max"),
    ("AMD EPYC 9654 96-Core Processor", None, "cpu-epyc-9654-genoa"),
    ("Intel(R) Xeon(R) Platinum 8480+", None, "cpu-xeon-8480p-spr"),
]

UNKNOWN = [
    ("", 16.0),
    ("NVIDIA A10G", 22.1),
    ("NVIDIA RTX A6000", 47.5),
    ("NVIDIA T400 4GB", 4.0),
    ("Tesla V100S-PCIE-32GB", 31.7),
    ("Tesla V100-SXM3-32GB", 31.7),
    ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 4.8),
    ("GRID A100X-10C", 10.0),
    ("NVIDIA H100 NVL", 93.1),
    ("NVIDIA H200 NVL", 139.8),
    ("NVIDIA GH200 480GB", 94.5),
    ("NVIDIA GeForce RTX 3060", 8.0),
    ("NVIDIA GeForce RTX 3060", None),
    ("NVIDIA GeForce RTX 3060 Laptop GPU", 6.0),
    ("NVIDIA GeForce RTX 3090 Ti", 23.7),
    ("NVIDIA GeForce RTX 4090 Laptop GPU", 16.0),
    ("NVIDIA GeForce RTX 3090", 12.0),
    ("NVIDIA H20", 139.8),
    ("Orin", 29.9),
    ("Orin", None),
    ("AMD Instinct MI50", None),
    ("AMD Instinct MI50/MI60", 32.0),
    ("AMD Instinct MI300X", 24.0),
    ("AMD Instinct MI300A", 128.0),
    ("AMD Radeon Graphics", 16.0),
    ("Ascend910", 32.0),
    ("Ascend910_9392", 64.0),
    ("MLU370-X4", 24.0),
    ("GAUDI", 32.0),
    ("Intel(R) Arc(TM) A770 Graphics", 8.0),
    ("Intel(R) Graphics [0x56a0]", 16.0),
    ("Apple M1 Max (24-core GPU)", 64.0),
    ("Apple M3 Max (40-core GPU)", 64.0),
    ("Intel(R) Xeon(R) Processor", None),
    ("AMD EPYC 9654P 96-Core Processor", None),
]


def _bytes(gib: float | None) -> int | None:
    return None if gib is None else round(gib * GIB)


@pytest.mark.parametrize(("name", "gib", "chip_id"), KNOWN)
def test_known_devices(name: str, gib: float | None, chip_id: str) -> None:
    found = match_device_name(name, _bytes(gib))
    assert found is not None
    assert found.id == chip_id


@pytest.mark.parametrize(("name", "gib"), UNKNOWN)
def test_anything_else_is_not_guessed(name: str, gib: float | None) -> None:
    assert match_device_name(name, _bytes(gib)) is None


@pytest.mark.parametrize(
    ("chip_id", "gib", "share"),
    [
        ("amd-mi250x-128g", 64, 0.5),
        ("intel-max-1550", 128, 1.0),
        ("nvidia-rtx-3090", 12, 1.0),
        ("biren-br106", 32, 1.0),
    ],
)
def test_one_of_two_dies_has_half_of_the_row(chip_id: str, gib: int, share: float) -> None:
    assert share_of_row(catalog()[chip_id], gib * GIB) == share


def test_rules_name_ids_of_the_catalog_and_no_pattern_twice() -> None:
    assert {chip_id for rule in RULES for chip_id in rule.ids} <= set(catalog())
    patterns = [rule.pattern for rule in RULES]
    assert len(set(patterns)) == len(patterns)
    assert all(re.compile(pattern) for pattern in patterns)


@given(st.text(), st.one_of(st.none(), st.integers(min_value=0, max_value=2**45)))
def test_no_text_breaks_it(name: str, memory_bytes: int | None) -> None:
    match_device_name(name, memory_bytes)
