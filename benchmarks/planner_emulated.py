"""Predicted against measured step times on emulated clusters: the mixes, and random ones.

    python benchmarks/planner_emulated.py --json

Real processes train a real model on emulated chips under the plan that the search finds. The random
clusters have two to five chips of unlike rate and memory, some too small for the model, and unlike
links. Takes about ten minutes; all figures are emulated.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import statistics
from itertools import combinations
from typing import Any

from common import host_precision, origin, prepared, run_plan, run_script, say, with_steps
from mixed import RECIPE, emulated_cluster, smallest_memory
from motley.chips.chip import Chip, Link
from motley.cluster import Cluster
from motley.data import PreparedData
from motley.errors import NoPlanError
from motley.plan.search.search import search
from motley.recipe import Recipe, parse_recipe

NUM_RANDOM = 20
STEPS = 4
GLOBAL_BATCH = 16
TOTAL_FLOPS_PER_S = {"bf16": 32e9, "fp32": 8e9}
"""Of all chips of a cluster together, well below what two cores of a host give; bf16 where the host
has fast kernels for it."""


def random_cluster(seed: int, recipe: Recipe) -> Cluster:
    """Two to five chips; each pair has a link of its own with some chance."""
    draw = random.Random(seed)
    speeds = [draw.choice((1, 2, 3, 4, 6, 8)) for _ in range(draw.randint(2, 5))]
    least = smallest_memory(recipe)
    chips = tuple(
        Chip(
            name=f"chip-{index}",
            kind=f"emulated-{speed}",
            emulated=True,
            flops_per_s={"fp32": 1.0},
            memory_bytes=int(least * draw.choice((0.6, 0.8, 1.2, 4.0, 50.0))),
            memory_bandwidth_bytes_per_s=speed,
            source="emulated",
        )
        for index, speed in enumerate(speeds)
    )

    def link(between: tuple[str, str]) -> Link:
        return Link(
            between=between,
            bandwidth_bytes_per_s=draw.choice((5e7, 2e8, 1e9)),
            latency_s=draw.choice((1e-4, 1e-3, 5e-3)),
            emulated=True,
            source="emulated",
        )

    names = [chip.name for chip in chips]
    odd = tuple(link(pair) for pair in combinations(names, 2) if draw.random() < 0.3)
    return Cluster(name=f"random-{seed}", chips=chips, links=(link(("*", "*")), *odd))


def for_host(cluster: Cluster) -> Cluster:
    """The cluster with rates in the ratio of its memory bandwidths, in a format and of a sum that
    this host can emulate."""
    precision = host_precision()
    total = sum(chip.memory_bandwidth_bytes_per_s for chip in cluster.chips)
    unit = TOTAL_FLOPS_PER_S[precision] / total
    chips = tuple(
        dataclasses.replace(
            chip,
            precision=precision,
            flops_per_s={precision: unit * chip.memory_bandwidth_bytes_per_s},
            memory_bandwidth_bytes_per_s=unit * chip.memory_bandwidth_bytes_per_s,
        )
        for chip in cluster.chips
    )
    return dataclasses.replace(cluster, chips=chips)


def measure(recipe: Recipe, cluster: Cluster, data: PreparedData) -> dict[str, Any] | None:
    """One cluster's plan and its real run; None if the model fits on no split."""
    try:
        plan = search(recipe, cluster)
    except NoPlanError:
        say(f"{cluster.name}: fits on no split")
        return None
    measured = run_plan(recipe, cluster, plan, data)
    error = abs(plan.step_s - measured.step_s) / measured.step_s
    say(f"{cluster.name}: predicted {plan.step_s:.3f} s, measured {measured.step_s:.3f} s")
    return {
        "name": cluster.name,
        "predicted_step_s": plan.step_s,
        "step_s": measured.step_s,
        "error": error,
        "stages": [len(replica.stages) for replica in plan.replicas],
    }


def emulated_part(num_random: int = NUM_RANDOM) -> dict[str, Any]:
    """Errors on the three mixes and on random clusters that hold the model."""
    recipe, data = prepared(parse_recipe(RECIPE))
    recipe = with_steps(recipe, STEPS)
    batch = dataclasses.replace(recipe.batch, global_batch=GLOBAL_BATCH)
    recipe = dataclasses.replace(recipe, batch=batch)
    small = int(0.8 * smallest_memory(recipe))
    clusters = [
        emulated_cluster("A", [4, 2, 1, 1]),
        emulated_cluster("B", [8, 4, 2, 1, 1], small),
        emulated_cluster("C", [1, 1, 1, 1]),
    ]
    found = [measure(recipe, for_host(cluster), data) for cluster in clusters]
    seed = 0
    while len([each for each in found if each]) < len(clusters) + num_random:
        found.append(measure(recipe, for_host(random_cluster(seed, recipe)), data))
        seed += 1
    runs = [each for each in found if each]
    errors = [each["error"] for each in runs]
    return {
        "emulated_error_median": statistics.median(errors),
        "emulated_error_worst": max(errors),
        "emulated_clusters": runs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--random", type=int, default=NUM_RANDOM, help="Random clusters.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object at the end.")
    arguments = parser.parse_args()
    result = emulated_part(arguments.random) | {"origin": origin()}
    median, worst = result["emulated_error_median"], result["emulated_error_worst"]
    print(f"Emulated clusters: median error {median:.1%}, worst {worst:.1%}.")
    if arguments.json:
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    run_script(main)
