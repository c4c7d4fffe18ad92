"""What a training keeps in memory, and the largest model that trains in so much of it.

    python benchmarks/memory.py --json
    python benchmarks/memory.py --measure 1 --measure 4

Bytes per parameter of the training state (weights, gradients, optimizer) are counted by the
planner's memory model, and so is the largest model of one family that fits 1 to 24 GiB on one chip;
the baseline is AdamW in fp32 that keeps every activation. With --measure the largest models for so
many GiB really take two steps on this CPU, in a process of their own; measured is its peak resident
set less what it has before the model is built.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from motley.cluster import Cluster
from motley.model.counts import model_counts
from motley.plan.layout import Layout, Recompute
from motley.plan.memory.peak import StageMemory
from motley.plan.memory.stage import stage_memory
from motley.plan.plan import Plan
from motley.plan.search.build import build_plan
from motley.plan.search.choices import ReplicaChoice, StageChoice
from motley.recipe import Recipe, parse_recipe
from motley.units import Precision, si, size

GIB = 2**30
LIMITS_GIB = (1, 4, 8, 16, 24)
HEAD_WIDTH = 32
LENGTH = 512
WIDTHS = range(128, 8192, HEAD_WIDTH)
TOKENS = 20_000
"""Of the random text that measured models train on."""


@dataclass(frozen=True)
class Setting:
    """One way to train."""

    name: str
    precision: Precision = "fp32"
    recompute: Recompute = "none"
    kind: str = "adamw"
    state_bits: int = 32
    sampled_targets: int | None = None
    tables: bool = False


SETTINGS = (
    Setting("AdamW, fp32 (baseline)"),
    Setting("+ recompute", recompute="full"),
    Setting("+ moments of 8 bits", recompute="full", state_bits=8),
    Setting("Muon, fp32, recompute", recompute="full", kind="muon"),
    Setting("Muon, moments of 8 bits for the rest", recompute="full", kind="muon", state_bits=8),
    Setting("the same, sampled softmax", "fp32", "full", "muon", 8, sampled_targets=1024),
    Setting("the same with n-gram tables", "fp32", "full", "muon", 8, 1024, tables=True),
    Setting("AdamW, bf16, recompute", "bf16", "full"),
    Setting("AdamW, bf16, moments of 8 bits, recompute", "bf16", "full", state_bits=8),
    Setting("Muon, bf16, moments of 8 bits, recompute", "bf16", "full", "muon", 8),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", type=int, action="append", default=[], metavar="GIB")
    parser.add_argument("--settings", nargs="*", type=int, help="Which to measure; all if unset.")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="Print one JSON object at the end.")
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(train_two_steps(json.loads(arguments.child))))
        return
    rows = [predicted_row(setting) for setting in SETTINGS]
    chosen = range(len(SETTINGS)) if arguments.settings is None else arguments.settings
    measured = [
        measured_row(SETTINGS[index], limit) for limit in arguments.measure for index in chosen
    ]
    if arguments.json:
        from common import origin

        print(json.dumps({**origin(), "predicted": rows, "measured": measured}, indent=1))


def recipe_of(setting: Setting, width: int) -> Recipe:
    """A GPT-2 block model whose depth grows with its width (64 of width for each layer)."""
    model: dict[str, Any] = {
        "layers": max(1, round(width / 64)),
        "width": width,
        "heads": width // HEAD_WIDTH,
        "context": LENGTH,
        "vocab_size": 8192,
    }
    if setting.sampled_targets:
        model["sampled_targets"] = setting.sampled_targets
    if setting.tables:
        # As many numbers again as the token embedding has, four times.
        model["tables"] = {"ngrams": [2, 3], "rows": 16384}
    optimizer = {"kind": setting.kind, "state_bits": setting.state_bits}
    batch = {"sequence_length": LENGTH, "global_batch": 2}
    return parse_recipe({"model": model, "optimizer": optimizer, "batch": batch})


def memory_of(setting: Setting, width: int) -> StageMemory:
    """Predicted need on one chip, micro-batches of one sample."""
    recipe = recipe_of(setting, width)
    return stage_memory(
        recipe.model,
        LENGTH,
        setting.precision,
        (0, recipe.model.num_layers),
        num_in_flight=1,
        micro_batch_size=1,
        layout=Layout(recompute=setting.recompute),
        recipe=recipe,
    )


def largest_width(setting: Setting, limit_gib: float) -> int | None:
    """The widest model of the family that the planner lets into so much memory."""
    low, high = -1, len(WIDTHS)
    while high - low > 1:
        middle = (low + high) // 2
        fits = memory_of(setting, WIDTHS[middle]).total_bytes <= limit_gib * GIB
        low, high = (middle, high) if fits else (low, middle)
    return WIDTHS[low] if low >= 0 else None


def predicted_row(setting: Setting) -> dict[str, Any]:
    """State per parameter, and the largest models; printed too."""
    probe = 1024
    counts = model_counts(recipe_of(setting, probe).model, LENGTH)
    per_parameter = memory_of(setting, probe).state_bytes / counts.parameters
    largest = {}
    for limit in LIMITS_GIB:
        width = largest_width(setting, limit)
        found = width and model_counts(recipe_of(setting, width).model, LENGTH)
        largest[limit] = found.parameters if found else 0
    print(
        f"{setting.name:<44} {per_parameter:6.2f} bytes/parameter   "
        + "  ".join(f"{limit} GiB: {si(largest[limit]):>6}" for limit in LIMITS_GIB),
        flush=True,
    )
    return {
        **dataclasses.asdict(setting),
        "bytes_per_parameter_predicted": per_parameter,
        "largest_parameters_predicted": largest,
    }


def measured_row(setting: Setting, limit_gib: int) -> dict[str, Any]:
    """Two real steps of the largest model that is predicted to fit."""
    width = largest_width(setting, limit_gib)
    assert width is not None
    command = [sys.executable, __file__, "--child"]
    case = {"setting": dataclasses.asdict(setting), "width": width, "limit": limit_gib * GIB}
    done = subprocess.run([*command, json.dumps(case)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    row: dict[str, Any] = {**case, **json.loads(done.stdout.splitlines()[-1])}
    row["predicted_bytes"] = memory_of(setting, width).total_bytes
    print(
        f"{limit_gib} GiB, {setting.name}: {si(row['parameters'])} parameters took "
        f"{size(row['measured_bytes'])} ({size(row['predicted_bytes'])} predicted), "
        f"{row['seconds']:.0f} s",
        flush=True,
    )
    return row


def train_two_steps(case: dict[str, Any]) -> dict[str, Any]:
    """In a process of its own: the trainer's engine on this CPU, and what it took."""
    import torch

    from common import one_chip
    from motley.federation.party.lone import lone_process
    from motley.train.assemble import build_engine

    setting = Setting(**case["setting"])
    recipe = recipe_of(setting, case["width"])
    cluster = one_chip(setting.precision, case["limit"])
    plan = one_chip_plan(recipe, cluster, setting.recompute)
    with tempfile.TemporaryDirectory() as folder, lone_process(torch.get_num_threads()):
        source = random_text(Path(folder), recipe)
        before = resident_bytes()
        began = time.monotonic()
        engine, _ = build_engine(recipe, cluster, plan, 0)
        engine.align()
        for step in range(2):
            result = engine.train_step(step, source, rate=1e-4, stop=False)
    return {
        "parameters": model_counts(recipe.model, LENGTH).parameters,
        "measured_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before,
        "loss": result.loss,
        "seconds": time.monotonic() - began,
    }


def one_chip_plan(recipe: Recipe, cluster: Cluster, recompute: Recompute) -> Plan:
    """The whole model on it, one sample at a time."""
    stage = StageChoice(0, 0, recipe.model.num_layers)
    plan = build_plan((ReplicaChoice((stage,), 1, recipe.batch.global_batch),), recipe, cluster)
    (replica,) = plan.replicas
    stages = tuple(dataclasses.replace(stage, recompute=recompute) for stage in replica.stages)
    return dataclasses.replace(plan, replicas=(dataclasses.replace(replica, stages=stages),))


def random_text(folder: Path, recipe: Recipe) -> Any:
    """Samples of random tokens."""
    import numpy as np

    from motley.data.batches import SampleSource
    from motley.data.streams import TokenStream, shard_path, token_dtype

    vocabulary = recipe.model.vocabulary
    tokens = np.random.default_rng(0).integers(0, vocabulary, TOKENS)
    path = shard_path(folder, "train", 0)
    tokens.astype(token_dtype(vocabulary)).tofile(path)
    stream = TokenStream((path,), (TOKENS,), vocabulary, TOKENS, 1)
    return SampleSource(stream, LENGTH, seed=0)


def resident_bytes() -> int:
    """What the process has in memory now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
