"""Which chips exchange on their devices, and which over host memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch.distributed as dist

from motley.chips.chip import Chip
from motley.train.assemble import shared_library
from plan_cases import make_chip

NVIDIA, AMD = "nvidia-rtx-4090", "amd-mi300x-192g"


def chips_of(kinds: Sequence[str], device: str = "cuda") -> list[Chip]:
    bare = dataclasses.replace(make_chip("a", 1e12), emulated=False, source="measured")
    return [
        dataclasses.replace(bare, name=f"a{index}", kind=kind, device=f"{device}:{index}")
        for index, kind in enumerate(kinds)
    ]


@pytest.fixture(autouse=True)
def every_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this PyTorch were built with all of them."""
    monkeypatch.setattr(dist, "is_backend_available", lambda backend: True)


@pytest.mark.parametrize(
    ("kinds", "library"),
    [
        ([NVIDIA, NVIDIA], "nccl"),
        ([NVIDIA, "nvidia-t4"], "nccl"),
        (["some card", "some card"], "nccl"),
        ([NVIDIA, AMD], None),
        ([NVIDIA, "some card"], None),
        (["some card", "another card"], None),
    ],
)
def test_chips_of_one_vendor_share_its_library(kinds: list[str], library: str | None) -> None:
    """An unlisted kind may be of any vendor, so it shares one with its like only."""
    assert shared_library(chips_of(kinds)) == library


def test_unlike_devices_and_those_without_a_library_go_through_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (card,) = chips_of([NVIDIA])
    other = chips_of(["huawei-ascend-910b1"], "npu")
    assert shared_library([card, *other]) is None
    assert shared_library(chips_of(["apple-m1-max"] * 2, "mps")) is None
    assert shared_library([card, dataclasses.replace(card, device="cpu")]) is None
    assert shared_library([card, dataclasses.replace(card, emulated=True)]) is None
    monkeypatch.setattr(dist, "is_backend_available", lambda backend: False)
    assert shared_library([card, card]) is None
