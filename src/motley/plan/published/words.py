"""What the words of a published row mean: formats, sharding, recompute, partitions."""

from __future__ import annotations

import re

from motley.chips.quoted import training_precision
from motley.plan.layout import Recompute, Sharding
from motley.plan.published.model import Incomplete
from motley.plan.published.rows import PublishedRow
from motley.units import Precision

_NOT_SAID = frozenset({"", "-", "?", "n/a", "unknown", "not stated", "not given", "unspecified"})


def noted(notes: str, pattern: str) -> int | None:
    """The number that a pattern finds in the notes."""
    match = re.search(pattern, notes)
    return int(match.group(1)) if match else None


def degree_noted(notes: str, *names: str) -> int | None:
    """A degree of parallelism in the notes under one of its names: "CP=2", "cp 2", "CP2", "context
    parallel size 2"."""
    words = "|".join(re.escape(name).replace(r"\ ", "[ -]") for name in names)
    return noted(
        notes,
        rf"(?i)\b(?:{words})(?:[ -]?(?:ism|parallel))?(?: (?:size|degree))?\s*[=:]?\s*(\d+)\b",
    )


def offloads(row: PublishedRow) -> bool:
    """Whether parameters, their state or activations are kept in the memory of the host."""
    return "offload" in f"{row.recompute} {row.zero_or_fsdp} {row.notes}".lower()


def counts_dies(notes: str) -> bool:
    """Whether a row counts dies of a card as chips."""
    return re.search(r"(?i)counts? gcds", notes) is not None


def is_open(cell: str) -> bool:
    """Whether a cell of words says nothing; "none" says that there is none."""
    return cell.strip().lower() in _NOT_SAID


def sharding_of(text: str) -> Sharding:
    """Of a cell such as "ZeRO-1" or "FSDP FULL_SHARD"."""
    lowered = text.lower()
    if "fsdp" in lowered or "hsdp" in lowered or "zero-3" in lowered or "zero3" in lowered:
        return "full"
    if "zero-0" in lowered or lowered in ("", "none", "ddp", "no"):
        return "none"
    return "optimizer" if "zero" in lowered or "optim" in lowered else "none"


def recompute_of(row: PublishedRow) -> Recompute:
    """Of the row's cell, or of notes that say what its FLOP count includes."""
    lowered = row.recompute.lower()
    if "selective" in lowered:
        return "selective"
    if "full" in lowered or lowered in ("yes", "true"):
        return "full"
    if not lowered and "recompute counted" in row.notes.lower():
        return "full"
    return "none"


def partition_of(notes: str, blocks: int) -> tuple[int, ...] | None:
    """Bounds of stages over blocks, from "stage partition over N ops [...]" or "5-7-7-7"."""
    match = re.search(r"partition over (\d+) ops \[([\d, ]+)\]", notes)
    if match:
        # Megatron-DeepSpeed's list: embedding, a transpose, the blocks, then norm, head and loss.
        bounds = [int(part) for part in match.group(2).split(",")]
        before = min(2, int(match.group(1)) - blocks)
        return tuple(min(max(bound - before, 0), blocks) for bound in bounds)
    match = re.search(r"layers per stage ((?:\d+-)+\d+)", notes)
    if match is None:
        return None
    counts = [int(part) for part in match.group(1).split("-")]
    extra = sum(counts) - blocks
    bounds, reached = [0], -(extra // 2)
    for count in counts:
        reached += count
        bounds.append(min(max(reached, 0), blocks))
    bounds[-1] = blocks
    return tuple(bounds)


def precision_of(text: str, rates: dict[Precision, float]) -> Precision:
    """The format of the matmuls; where a chip lacks it, the one that it trains in instead."""
    lowered = text.lower()
    wanted: Precision | None = None
    if "fp8" in lowered or "float8" in lowered:
        wanted = "fp8"
    elif "bf16" in lowered:
        wanted = "bf16"
    elif "fp16" in lowered or "amp" in lowered or "mixed" in lowered:
        wanted = "fp16"
    elif "fp32" in lowered or "tf32" in lowered:
        wanted = "fp32"
    if wanted is None:
        return training_precision(rates)
    if wanted not in rates and wanted in ("bf16", "fp16"):
        other: Precision = "fp16" if wanted == "bf16" else "bf16"
        wanted = other if other in rates else wanted
    if wanted not in rates:
        raise Incomplete(f"the catalog has no {wanted} rate of the chip")
    return wanted
