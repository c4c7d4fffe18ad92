"""How near a mix of unlike chips comes to the sum of what each of them gives alone.

    python benchmarks/mixed.py --json

Real processes train a real model on emulated chips (each held to a declared rate, memory and link).
Beside motley's plan stand torch's DDP with an even batch and an even pipeline split on the same
chips. All figures are emulated; the prediction is the plan's own. The chips train in the format in
which the host is fast: bf16 with AMX, else fp32 at lower rates (about 30 minutes).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import (
    Measured,
    host_precision,
    only,
    origin,
    prepared,
    run_plan,
    run_script,
    say,
    with_memory,
    with_steps,
)
from motley.chips.chip import Chip, Link
from motley.cluster import Cluster
from motley.data import PreparedData
from motley.plan.layout import Layout
from motley.plan.memory.stage import stage_memory
from motley.plan.search.build import even_pipeline
from motley.plan.search.search import search
from motley.recipe import Recipe, parse_recipe

UNIT_FLOPS_PER_S = {"bf16": 4e9, "fp32": 1.5e9}
"""Of a chip of speed 1. The chips of a mix together stay well below what two cores of a host give.
A chip's memory bandwidth is one byte per FLOP, scaled with the batch: AdamW's share of the step is
that of a real chip (100 FLOP per byte) at a real batch (0.5 M tokens), not 100 times that."""
LINK = Link(bandwidth_bytes_per_s=1e9, latency_s=1e-4, emulated=True, source="emulated")
ROOMY_BYTES = 8 * 10**9

RECIPE: dict[str, Any] = {
    "name": "mixed",
    "model": {"layers": 12, "width": 128, "heads": 2, "context": 128},
    "data": {"vocab_size": 2048},
    "batch": {"sequence_length": 128, "global_batch": 64},
    "optimizer": {"learning_rate": 3e-3},
    "schedule": {"steps": 6, "warmup_steps": 2},
    "validation": {"every_steps": 1000, "max_samples": 16},
    "checkpoint": {"every_steps": 1000, "keep": 1},
}
ALONE_STEPS = 3
TO_LOSS: dict[str, Any] = {
    **RECIPE,
    "optimizer": {"kind": "muon", "learning_rate": 6e-3, "matrix_learning_rate": 0.02},
    "schedule": {"steps": 32, "warmup_steps": 2, "decay": "linear", "final_share": 0.0},
    "validation": {"every_steps": 4, "max_samples": 32},
}
"""Its loss falls at every validation, so that time to a loss means something: AdamW's at these
sizes is flat from the 20th step on, and rounding decides when it passes a value."""


def emulated_cluster(name: str, speeds: list[int], small: int | None = None) -> Cluster:
    """Chips of these speeds; those of speed 1 get `small` bytes of memory where given."""
    precision = host_precision()
    unit = UNIT_FLOPS_PER_S[precision]
    chips = tuple(
        Chip(
            name=f"chip-{index}",
            kind=f"emulated-{speed}x",
            emulated=True,
            precision=precision,
            flops_per_s={precision: speed * unit},
            memory_bytes=small if small and speed == 1 else ROOMY_BYTES,
            memory_bandwidth_bytes_per_s=speed * unit,
            source="emulated",
        )
        for index, speed in enumerate(speeds)
    )
    return Cluster(name=name, chips=chips, links=(LINK,))


def smallest_memory(recipe: Recipe) -> int:
    """Bytes that an emulated chip needs at least to hold the whole model: recompute, one sample."""
    return stage_memory(
        recipe.model,
        recipe.batch.sequence_length,
        host_precision(),
        (0, recipe.model.num_layers),
        num_in_flight=1,
        micro_batch_size=1,
        layout=Layout(recompute="full"),
    ).total_bytes


def alone_tokens_per_s(
    recipe: Recipe, cluster: Cluster, data: PreparedData, known: dict[str, float]
) -> float:
    """The sum of what every chip reaches alone; chips of one kind are measured once."""
    roomy = with_memory(cluster, ROOMY_BYTES)
    for chip in roomy.chips:
        if chip.kind not in known:
            single = only(roomy, chip.name)
            short = with_steps(recipe, ALONE_STEPS)
            known[chip.kind] = run_plan(short, single, search(short, single), data).tokens_per_s
            say(f"  {chip.kind} alone: {known[chip.kind]:.0f} tokens/s")
    return sum(known[chip.kind] for chip in cluster.chips)


def data_parallel_tokens_per_s(recipe: Recipe, cluster: Cluster, data: PreparedData) -> float:
    """torch DDP with an even batch on the chips that can hold the model."""
    smallest = smallest_memory(recipe)
    chips = tuple(chip for chip in cluster.chips if chip.memory_bytes >= smallest)
    with tempfile.TemporaryDirectory(prefix="motley-benchmark-") as base:
        job, result = Path(base) / "job.json", Path(base) / "result.json"
        job.write_text(
            json.dumps(
                {
                    "recipe": recipe.to_dict(),
                    "cluster": dataclasses.replace(cluster, chips=chips).to_dict(),
                    "data": str(data.folder),
                    "micro_batch_size": 4,
                    "result": str(result),
                }
            )
        )
        peer = Path(__file__).with_name("data_parallel_peer.py")
        subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone",
             f"--nproc-per-node={len(chips)}", str(peer), str(job)],
            check=True, stdout=sys.stderr,
        )  # fmt: skip
        return recipe.tokens_per_step / float(json.loads(result.read_text())["step_s"])


def measure_mix(
    recipe: Recipe, cluster: Cluster, data: PreparedData, known: dict[str, float]
) -> dict[str, Any]:
    """One mix: motley's plan, its prediction, and the two peers."""
    say(f"mix {cluster.name}")
    total = alone_tokens_per_s(recipe, cluster, data, known)
    plan = search(recipe, cluster)
    ours = run_plan(recipe, cluster, plan, data)
    say(f"  motley: {ours.tokens_per_s:.0f} of {total:.0f} tokens/s")
    ddp = data_parallel_tokens_per_s(recipe, cluster, data)
    roomy = with_memory(cluster, ROOMY_BYTES)
    pipeline = run_plan(
        with_steps(recipe, 4), roomy, even_pipeline(with_steps(recipe, 4), roomy), data
    )
    return {
        "name": cluster.name,
        "precision": cluster.chips[0].precision,
        "efficiency": ours.tokens_per_s / total,
        "ddp_efficiency": ddp / total,
        "even_pipeline_efficiency": pipeline.tokens_per_s / total,
        "prediction_error": abs(plan.step_s - ours.step_s) / ours.step_s,
        "tokens_per_s": ours.tokens_per_s,
        "sum_alone_tokens_per_s": total,
        "predicted_step_s": plan.step_s,
        "step_s": ours.step_s,
        "split": [
            {
                "chips": [stage.chip for stage in replica.stages],
                "layers": [[stage.first_layer, stage.last_layer] for stage in replica.stages],
                "samples": replica.num_samples,
                "micro_batch_size": replica.micro_batch_size,
            }
            for replica in plan.replicas
        ],
    }


def weak_for_strong() -> dict[str, float]:
    """Wall time to the same validation loss: one strong chip over four of a quarter of its rate."""
    recipe, data = prepared(parse_recipe(TO_LOSS))
    strong_run = _train(recipe, emulated_cluster("strong", [16]), data)
    weak_run = _train(recipe, emulated_cluster("weak", [4, 4, 4, 4]), data)
    target = max(strong_run.validations[-1][2], weak_run.validations[-1][2])
    strong_s, weak_s = (_seconds_to(run, target) for run in (strong_run, weak_run))
    say(f"  loss {target:.3f}: strong {strong_s:.1f} s, four weak {weak_s:.1f} s")
    return {"ratio": strong_s / weak_s, "loss": target, "strong_s": strong_s, "weak_s": weak_s}


def _train(recipe: Recipe, cluster: Cluster, data: PreparedData) -> Measured:
    return run_plan(recipe, cluster, search(recipe, cluster), data)


def _seconds_to(run: Measured, target: float) -> float:
    return next(seconds for seconds, _, loss in run.validations if loss <= target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the result as JSON at the end")
    parser.add_argument("--only", help="one of A, B, C, weak_for_strong")
    arguments = parser.parse_args()
    recipe, data = prepared(parse_recipe(RECIPE))
    small = smallest_memory(recipe) * 3 // 4
    mixes = {
        "A": emulated_cluster("A", [4, 2, 1, 1]),
        "B": emulated_cluster("B", [8, 4, 2, 1, 1], small=small),
        "C": emulated_cluster("C", [1, 1, 1, 1]),
    }
    known: dict[str, float] = {}
    result: dict[str, Any] = {"mixes": [], "weak_for_strong": None}
    for name, cluster in mixes.items():
        if arguments.only in (None, name):
            result["mixes"].append(measure_mix(recipe, cluster, data, known))
            say(json.dumps(result["mixes"][-1]))
    if arguments.only in (None, "weak_for_strong"):
        say("four weak chips for one strong chip")
        details = weak_for_strong()
        result |= {"weak_for_strong": details["ratio"], "weak_for_strong_details": details}
    result["origin"] = origin()
    print(json.dumps(result, indent=None if arguments.json else 2))


if __name__ == "__main__":
    run_script(main)
