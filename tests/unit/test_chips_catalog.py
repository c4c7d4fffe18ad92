"""The catalog: what the file says, where each figure comes from, and look-ups."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

import motley.chips
from motley.chips.catalog import LABELS, CatalogChip, catalog, look_up
from motley.errors import UnknownChipError

NUM_ROWS = 133


def test_every_row_is_read() -> None:
    chips = catalog()
    assert len(chips) == NUM_ROWS
    assert all(chip.id == chip_id for chip_id, chip in chips.items())


@pytest.mark.parametrize("chip", catalog().values(), ids=lambda chip: chip.id)
def test_every_figure_has_an_origin(chip: CatalogChip) -> None:
    figures = {
        field.name: value
        for field in dataclasses.fields(chip)
        if isinstance(value := getattr(chip, field.name), float | int)
    }
    for column, value in figures.items():
        if column not in LABELS:
            assert chip.origin_of(column), f"{column} = {value} has no origin"
            assert value > 0


def test_an_empty_cell_is_unknown_and_has_no_origin() -> None:
    volta = look_up("nvidia-v100-sxm2-16g")
    assert volta.bf16_tflops is None
    assert volta.peak_flops_per_s("bf16") is None
    assert volta.origin_of("bf16_tflops") is None
    assert volta.origin_of("year") is None


def test_figures_and_origins_of_one_row() -> None:
    chip = look_up("nvidia-v100-sxm2-16g")
    assert (chip.fp32_tflops, chip.fp16_tflops, chip.memory_gb) == (15.7, 125, 16)
    assert chip.peak_flops_per_s("fp16") == 125e12
    assert chip.memory_bytes == 16_000_000_000
    assert chip.origin_of("fp16_tflops") == "vendor datasheet (recalled)"
    assert chip.origin_of("link_gbps") == "stas00/ml-engineering@744d01e:network/README.md"
    assert "skypilot" in (chip.origin_of("cloud_usd_per_hour") or "")


@pytest.mark.parametrize(
    ("name", "chip_id"),
    [
        ("nvidia-rtx-4090", "nvidia-rtx-4090"),
        ("rtx-4090", "nvidia-rtx-4090"),
        (" RTX 4090 ", "nvidia-rtx-4090"),
        ("mtt_s80", "moorethreads-mtt-s80"),
        ("ascend-910b3", "huawei-ascend-910b3"),
        ("epyc-9654-genoa", "cpu-epyc-9654-genoa"),
    ],
)
def test_look_up_with_and_without_vendor(name: str, chip_id: str) -> None:
    assert look_up(name).id == chip_id


def test_a_part_of_a_name_lists_the_candidates() -> None:
    with pytest.raises(UnknownChipError, match="fits 4 ids") as caught:
        look_up("a100")
    for chip_id in ("nvidia-a100-pcie-40g", "nvidia-a100-sxm-80g"):
        assert chip_id in str(caught.value)


def test_a_part_that_fits_one_id_is_not_taken_for_it() -> None:
    with pytest.raises(UnknownChipError, match="nvidia-h200-sxm-141g"):
        look_up("h200")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("nvidia-rtx-4900", "nvidia-rtx-4090"), ("rtx-3900", "rtx-3090"), ("gaudy2", "gaudi2")],
)
def test_a_misspelt_id_suggests_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(UnknownChipError) as caught:
        look_up(typed)
    assert meant in caught.value.remedy


@pytest.mark.parametrize("name", ["", "zzzzzz"])
def test_nonsense_has_a_remedy_too(name: str) -> None:
    with pytest.raises(UnknownChipError) as caught:
        look_up(name)
    assert "cluster.toml" in caught.value.remedy


def test_public_names_are_sorted_and_there() -> None:
    names = motley.chips.__all__
    assert names == sorted(names)
    assert all(hasattr(motley.chips, name) for name in names)


def test_the_catalog_does_not_import_torch() -> None:
    code = "import sys, motley.chips; motley.chips.catalog(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_unknown_chip_names_some_that_are_known() -> None:
    with pytest.raises(UnknownChipError) as caught:
        look_up("nonsense")
    named = caught.value.remedy.removeprefix("It has ").partition(" and others")[0].split(", ")
    assert len(named) > 2
    assert set(named) <= set(catalog())
