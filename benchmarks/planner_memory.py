"""What the planner's memory model is worth.

    python benchmarks/planner_memory.py --table published_throughput.csv --json

Against published trainings: the peaks that their notes give, whether a training that ran is called
impossible, and whether one that ran out of memory is called fitting; every miss is named. Against
PyTorch's trackers on fake tensors (`tests/unit/tracked_memory.py`): whole models of GPT-2's,
Llama-8B's and Llama-70B's shape, which takes some minutes; --no-tracker leaves that out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import statistics
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from motley.errors import MotleyError
from motley.model.named import model_named
from motley.plan.layout import Layout
from motley.plan.memory.peak import StageMemory
from motley.plan.memory.stage import stage_memory
from motley.plan.published.case import Case
from motley.plan.published.memory import case_fits, case_memory
from motley.plan.published.model import Incomplete
from motley.plan.published.rows import PublishedRow, read_table
from motley.plan.published.settle import case_of
from motley.plan.stack import PYTORCH, TORCHTITAN
from motley.units import size
from planner_table import repository_of

ROOT = Path(__file__).resolve().parents[1]
TABLE_FILE = ROOT / "benchmarks/published_throughput.csv"

_PEAK = re.compile(r"\bmem ([\d.]+) ?(GiB|GB|B)\b")
_UNITS = {"B": 1.0, "GB": 1e9, "GiB": 2**30}
_OUT_OF_MEMORY = re.compile(r"^OOM\b")
_FAILED = re.compile(r"FAILED")
"""A run that failed for a reason that is not given says nothing of memory."""

WORST = 10


class Peak(NamedTuple):
    """A published peak beside the predicted one."""

    row: PublishedRow
    published_bytes: float
    predicted_bytes: float

    @property
    def error(self) -> float:
        """Predicted over published, minus 1."""
        return self.predicted_bytes / self.published_bytes - 1


class Shape(NamedTuple):
    """A training step that the tracker follows."""

    model: str
    samples: int
    length: int
    members: int = 1
    autocast: bool = False
    recompute: bool = False
    micro_batches: int = 1


SHAPES = (
    Shape("gpt2", 4, 1024),
    Shape("gpt2", 4, 1024, autocast=True, micro_batches=2),
    Shape("gpt2", 4, 1024, recompute=True),
    Shape("llama3-8b", 1, 8192, members=8),
    Shape("llama3-8b", 1, 8192, members=8, recompute=True, micro_batches=2),
    Shape("llama3-8b", 1, 1024, members=8, recompute=True),
    Shape("llama3-70b", 1, 8192, members=64, recompute=True),
    Shape("llama3-70b", 1, 4096, members=64),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, default=TABLE_FILE)
    parser.add_argument("--no-tracker", action="store_true", help="Published rows only.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object at the end.")
    arguments = parser.parse_args()
    result = published_part(arguments.table)
    if not arguments.no_tracker:
        result |= tracker_part()
    if arguments.json:
        print(json.dumps(result))


def published_part(path: Path) -> dict[str, Any]:
    """Scores of the memory model on a table of published trainings; prints as it goes."""
    table = read_table(path)
    peaks: list[Peak] = []
    misses: list[str] = []
    judged = 0
    for row in table.rows:
        try:
            case = case_of(row, table.rows)
        except (Incomplete, MotleyError):
            continue
        memory = case_memory(case)
        judged += 1
        misses += miss(row, case, memory)
        peak = published_peak(row, memory)
        if peak is not None:
            peaks.append(peak)
    print(f"{judged} of {len(table.rows)} rows say enough of their memory to be judged.")
    for name in dict.fromkeys(repository_of(peak.row) for peak in peaks):
        print_source(name, [peak for peak in peaks if repository_of(peak.row) == name])
    print("Furthest off:")
    for peak in sorted(peaks, key=lambda one: -abs(one.error))[:WORST]:
        print(f"  {describe(peak)}")
    print(f"Misses: {len(misses)}")
    for text in misses:
        print(f"  {text}")
    errors = [abs(peak.error) for peak in peaks]
    return {
        "memory_rows_judged": judged,
        "memory_peaks": len(peaks),
        "memory_median_error": round(statistics.median(errors), 4) if errors else None,
        "memory_misses": len(misses),
        "memory_missed": misses,
    }


def miss(row: PublishedRow, case: Case, memory: tuple[StageMemory, ...]) -> Iterator[str]:
    """What is said wrongly of a row that ran, or that ran out of memory."""
    fits = case_fits(case, memory)
    need = size(max(part.total_bytes for part in memory))
    place = f"line {row.line}: {row.model} on {row.n_chips} x {row.chip}"
    if _OUT_OF_MEMORY.search(row.notes):
        if fits:
            yield f"{place} ran out of memory and is called fitting with {need}"
    elif fits is False and not _FAILED.search(row.notes):
        yield f"{place} ran and is called impossible with {need}"


def published_peak(row: PublishedRow, memory: tuple[StageMemory, ...]) -> Peak | None:
    """The peak of the fullest group as the source has measured it: GiB are what PyTorch's allocator
    has reserved (torchtitan), other figures those of the whole device."""
    found = _PEAK.search(row.notes)
    if found is None:
        return None
    fullest = max(memory, key=lambda part: part.total_bytes)
    outside = 0 if found[2] == "GiB" else fullest.context_bytes
    return Peak(row, float(found[1]) * _UNITS[found[2]], fullest.reserved_bytes + outside)


def print_source(name: str, peaks: list[Peak]) -> None:
    errors = sorted(peak.error for peak in peaks)
    median = statistics.median(map(abs, errors))
    print(
        f"{len(peaks):4d} peaks  median {100 * median:4.1f} %  "
        f"from {100 * errors[0]:+.0f} to {100 * errors[-1]:+.0f} %  {name}"
    )


def describe(peak: Peak) -> str:
    row = peak.row
    return (
        f"line {row.line}: {row.model}, tp {row.tp} pp {row.pp} dp {row.dp} micro-batch "
        f"{row.micro_batch}: {size(peak.predicted_bytes)} predicted, "
        f"{size(peak.published_bytes)} published ({100 * peak.error:+.0f} %)"
    )


def tracker_part() -> dict[str, Any]:
    """Whole models under PyTorch's trackers; prints as it goes."""
    errors = []
    for shape in SHAPES:
        began = time.process_time()
        tracked, predicted = tracked_bytes(shape), shape_memory(shape).allocated_bytes
        errors.append(predicted / tracked - 1)
        how = ", ".join(
            f"{field} {value}" for field, value in shape._asdict().items() if field != "model"
        )
        print(
            f"{shape.model} ({how}): {size(predicted)} predicted, {size(tracked)} tracked "
            f"({100 * errors[-1]:+.1f} %), {time.process_time() - began:.0f} s"
        )
    return {"tracker_shapes": len(errors), "tracker_worst_error": round(max(map(abs, errors)), 4)}


def tracked_bytes(shape: Shape) -> int:
    """Peak of a rank as PyTorch's tracker sees it."""
    sys.path.insert(0, str(ROOT / "tests/unit"))
    from tracked_memory import track, track_sharded

    common: dict[str, Any] = {"recompute": shape.recompute, "micro_batches": shape.micro_batches}
    config = model_named(shape.model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if shape.members > 1:
            return track_sharded(
                config, shape.samples, shape.length, members=shape.members, **common
            ).total
        return track(config, shape.samples, shape.length, autocast=shape.autocast, **common).total


def shape_memory(shape: Shape) -> StageMemory:
    """The model's own view of the same step."""
    config = model_named(shape.model)
    is_sharded = shape.members > 1
    layout = Layout(
        data=shape.members,
        sharding="full" if is_sharded else "none",
        recompute="full" if shape.recompute else "none",
    )
    return stage_memory(
        dataclasses.replace(config, context=max(config.context, shape.length)),
        shape.length,
        "bf16" if is_sharded or shape.autocast else "fp32",
        (0, config.num_layers),
        num_in_flight=1,
        micro_batch_size=shape.samples * shape.members,
        layout=layout,
        stack=TORCHTITAN if is_sharded else PYTORCH,
        accumulates=shape.micro_batches > 1,
    )


if __name__ == "__main__":
    main()
