"""From the name that a driver reports to the chip's row in the catalog, or to none.

A name must fit its rule as a whole, so that a variant, a laptop part, a virtual GPU or a partition
that the catalog does not have is never taken for the chip beside it. Where the name leaves several
rows or unlisted variants open, the memory decides; if it cannot, the answer is none.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from motley.chips.catalog import CatalogChip, catalog
from motley.chips.chip import Chip


class Rule(NamedTuple):
    """Driver names, as a pattern over the normalised name, and the catalog ids they may mean."""

    pattern: str
    ids: tuple[str, ...]
    needs_memory: bool = False
    """Variants outside the catalog report the same name and differ in memory."""


RULES = (
    Rule(r"(nvidia )?tesla p100 pcie 16gb", ("nvidia-p100-pcie-16g",)),
    Rule(r"(nvidia )?tesla p100 sxm2 16gb", ("nvidia-p100-sxm2-16g",)),
    Rule(r"(nvidia )?geforce gtx 1080 ti", ("nvidia-gtx-1080-ti",)),
    Rule(r"(nvidia )?tesla v100 pcie 16gb", ("nvidia-v100-pcie-16g",)),
    Rule(r"(nvidia )?tesla v100 pcie 32gb", ("nvidia-v100-pcie-32g",)),
    Rule(r"(nvidia )?tesla v100 sxm2 16gb", ("nvidia-v100-sxm2-16g",)),
    Rule(r"(nvidia )?tesla v100 sxm2 32gb", ("nvidia-v100-sxm2-32g",)),
    Rule(r"(nvidia )?geforce rtx 2080 ti", ("nvidia-rtx-2080-ti",)),
    Rule(r"(nvidia |tesla )t4", ("nvidia-t4",)),
    Rule(r"nvidia a10", ("nvidia-a10",)),
    Rule(r"nvidia a30", ("nvidia-a30",)),
    Rule(r"nvidia a40", ("nvidia-a40",)),
    Rule(r"(nvidia )?a100 pcie 40gb", ("nvidia-a100-pcie-40g",)),
    Rule(r"(nvidia )?a100 sxm4 40gb", ("nvidia-a100-sxm-40g",)),
    Rule(r"nvidia a100 80gb pcie", ("nvidia-a100-pcie-80g",)),
    Rule(r"(nvidia )?a100 sxm4 80gb", ("nvidia-a100-sxm-80g",)),
    Rule(r"nvidia a800 80gb pcie", ("nvidia-a800-pcie-80g",)),
    Rule(r"nvidia a800 sxm4 80gb", ("nvidia-a800-sxm-80g",)),
    Rule(r"nvidia l4", ("nvidia-l4",)),
    Rule(r"nvidia l20", ("nvidia-l20",)),
    Rule(r"nvidia l40s", ("nvidia-l40s",)),
    Rule(r"nvidia h20", ("nvidia-h20-sxm-96g",), needs_memory=True),
    Rule(r"nvidia h100 pcie", ("nvidia-h100-pcie-80g",)),
    Rule(r"nvidia h100 80gb hbm3", ("nvidia-h100-sxm-80g",)),
    Rule(r"nvidia h800 pcie", ("nvidia-h800-pcie-80g",)),
    Rule(r"nvidia h800", ("nvidia-h800-sxm-80g",)),
    Rule(r"nvidia h200", ("nvidia-h200-sxm-141g",)),
    Rule(r"nvidia b200", ("nvidia-b200-sxm-180g",)),
    Rule(r"nvidia geforce rtx 3060", ("nvidia-rtx-3060-12g",), needs_memory=True),
    Rule(r"nvidia geforce rtx 3090", ("nvidia-rtx-3090",)),
    Rule(r"nvidia geforce rtx 4090", ("nvidia-rtx-4090",)),
    Rule(r"nvidia geforce rtx 4090 d", ("nvidia-rtx-4090d",)),
    Rule(r"nvidia geforce rtx 5090", ("nvidia-rtx-5090",)),
    Rule(r"orin", ("nvidia-jetson-agx-orin-64g",), needs_memory=True),
    Rule(r"(amd )?(radeon )?instinct mi50", ("amd-mi50-16g", "amd-mi50-32g"), needs_memory=True),
    Rule(r"(amd )?(radeon )?instinct mi60", ("amd-mi60-32g",)),
    Rule(r"(amd )?radeon vii", ("amd-radeon-vii",)),
    Rule(r"amd instinct mi100", ("amd-mi100-32g",)),
    Rule(r"amd instinct mi210", ("amd-mi210-64g",)),
    Rule(r"amd instinct mi250x", ("amd-mi250x-128g",)),
    Rule(r"amd instinct mi300x( oam)?", ("amd-mi300x-192g",)),
    Rule(r"amd instinct mi325x( oam)?", ("amd-mi325x-256g",)),
    Rule(r"(amd )?radeon rx 7900 xtx", ("amd-rx-7900-xtx",)),
    Rule(r"(amd )?radeon rx 9070 xt", ("amd-rx-9070-xt",)),
    Rule(r"ascend ?910a", ("huawei-ascend-910a",)),
    Rule(r"ascend ?910b1", ("huawei-ascend-910b1",)),
    Rule(r"ascend ?910b2", ("huawei-ascend-910b2",)),
    Rule(r"ascend ?910b3", ("huawei-ascend-910b3",)),
    Rule(r"ascend ?910b4", ("huawei-ascend-910b4",)),
    Rule(r"ascend ?310p3", ("huawei-ascend-310p",), needs_memory=True),
    Rule(r"mlu370 x8", ("cambricon-mlu370-x8",)),
    Rule(r"mlu590", ("cambricon-mlu590",)),
    Rule(r"(dcu )?k100 ai", ("hygon-k100-ai",)),
    Rule(r"(dcu )?z100l", ("hygon-z100",)),
    Rule(r"(dcu )?bw200", ("hygon-bw200",)),
    Rule(r"(moore threads )?mtt s80", ("moorethreads-mtt-s80",)),
    Rule(r"(moore threads )?mtt s4000", ("moorethreads-mtt-s4000",)),
    Rule(r"(moore threads )?mtt s5000", ("moorethreads-mtt-s5000",)),
    Rule(r"(biren )?br104", ("biren-br104",)),
    Rule(r"(biren )?br106", ("biren-br106",)),
    Rule(r"iluvatar bi v100", ("iluvatar-bi-v100",)),
    Rule(r"iluvatar bi v150", ("iluvatar-bi-v150",)),
    Rule(r"(metax |mx)c500", ("metax-c500",)),
    Rule(r"(metax |mx)c550", ("metax-c550",)),
    Rule(r"kunlun(xin)? r300", ("kunlunxin-r300",)),
    Rule(r"kunlun(xin)? p800", ("kunlunxin-p800",)),
    Rule(r"enflame (cloudblazer )?t20", ("enflame-t20",)),
    Rule(r"enflame (cloudblazer )?s60", ("enflame-s60",)),
    Rule(r"(habana )?gaudi ?2", ("intel-gaudi2",)),
    Rule(r"(habana )?gaudi ?3", ("intel-gaudi3",)),
    Rule(r"intel data center gpu max 1550", ("intel-max-1550",)),
    Rule(r"intel arc a770 graphics", ("intel-arc-a770-16g",), needs_memory=True),
    Rule(r"intel arc b580 graphics", ("intel-arc-b580",)),
    Rule(r"apple m1 max 32 core gpu", ("apple-m1-max",), needs_memory=True),
    Rule(r"apple m2 ultra 76 core gpu", ("apple-m2-ultra",), needs_memory=True),
    Rule(r"apple m3 max 40 core gpu", ("apple-m3-max",), needs_memory=True),
    Rule(r"apple m4 max 40 core gpu", ("apple-m4-max",), needs_memory=True),
    Rule(r"amd epyc 9654 96 core processor", ("cpu-epyc-9654-genoa",)),
    Rule(r"amd epyc 9965 192 core processor", ("cpu-epyc-9965-turin",)),
    Rule(r"intel xeon platinum 8480\+", ("cpu-xeon-8480p-spr",)),
)

SPLIT_IN_TWO = frozenset(
    {"amd-mi250x-128g", "huawei-ascend-910c", "iluvatar-bi-v150", "intel-max-1550"}
)
"""Rows of two dies or stacks, which PyTorch may show as two devices of half the figures."""

MEMORY_TOLERANCE = 0.1
"""Drivers report 0.98 (ECC and reserved parts) to 1.074 (binary GB) of the nominal decimal GB."""


def match_device_name(name: str, memory_bytes: int | None) -> CatalogChip | None:
    """The catalog row of the device that a driver calls `name`, or `None` if that is not certain.

    `memory_bytes` is the device's total memory; a device of half the row's memory fits the rows
    that PyTorch shows as two devices.
    """
    plain = _normalise(name)
    for rule in RULES:
        if not re.fullmatch(rule.pattern, plain):
            continue
        if memory_bytes is None:
            fitting = [] if rule.needs_memory else list(rule.ids)
        else:
            fitting = [chip_id for chip_id in rule.ids if _memory_fits(chip_id, memory_bytes)]
        return catalog()[fitting[0]] if len(fitting) == 1 else None
    return None


def share_of_row(chip: CatalogChip, memory_bytes: int) -> float:
    """The part of the row's figures that one device has: 0.5 for one of two dies, else 1."""
    nominal = chip.memory_bytes
    is_half = nominal is not None and memory_bytes < 0.75 * nominal
    return 0.5 if is_half and chip.id in SPLIT_IN_TWO else 1.0


def quoted_peak(chip: Chip) -> float | None:
    """The catalog's peak of a measured chip in its training format, FLOP/s; `None` if the chip is
    unlisted, emulated, or quoted itself."""
    row = catalog().get(chip.kind)
    peak = row.peak_flops_per_s(chip.precision) if row and chip.source == "measured" else None
    return peak * share_of_row(row, chip.memory_bytes) if row and peak else None


def _normalise(name: str) -> str:
    """For example "Intel(R) Arc(TM) A770 Graphics" -> "intel arc a770 graphics"."""
    plain = re.sub(r"\((r|tm|c)\)|[®™]", " ", name.lower())
    return re.sub(r"[\s_()/-]+", " ", plain).strip()


def _memory_fits(chip_id: str, memory_bytes: int) -> bool:
    chip = catalog()[chip_id]
    if chip.memory_bytes is None:
        return True
    ratio = memory_bytes / (chip.memory_bytes * share_of_row(chip, memory_bytes))
    return abs(ratio - 1) <= MEMORY_TOLERANCE
