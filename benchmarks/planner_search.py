"""How good the planner's search is, and how long it takes.

    python benchmarks/planner_search.py --json

Small random clusters are planned and enumerated (`planner_brute.py`): the gap is by how much the
plan's step is longer than the shortest of all. Large clusters of catalog chips are planned for
Llama 3 8B and 70B: CPU seconds of search and explanation without reading the cluster, and tokens/s
beside those of plans that are made by hand. Nothing is measured but time; steps are predicted.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from rich.console import Console

from motley.chips.chip import Chip, Link
from motley.cluster import Cluster, parse_cluster
from motley.errors import NoPlanError
from motley.model.config import ModelConfig
from motley.model.named import model_named
from motley.plan.explain.explain import render
from motley.plan.plan import Plan
from motley.plan.search.search import search
from motley.plan.space import ANY, TRAINABLE, Space
from motley.recipe import BatchConfig, Recipe
from motley.units import Precision
from planner_brute import BruteForce
from planner_by_hand import best_by_hand

NUM_CLUSTERS = 200
MOST_CHIPS = 10_000

MOST_GROUPED = 4
"""Chips up to which layouts are enumerated too."""

SEQUENCE_LENGTH = 4096

TWO_TURNS = 2
"""Each search is timed so often; the shorter time counts."""


@dataclass(frozen=True)
class Case:
    """A cluster of catalog chips: (kind, chips, nodes, Gbit/s of each node's network)."""

    name: str
    groups: tuple[tuple[str, int, int, int], ...]
    global_batch: int


CASES = (
    Case("8 mixed chips of 4 kinds", (
        ("h100-sxm-80g", 2, 1, 400), ("a100-sxm-80g", 2, 1, 200),
        ("rtx-4090", 2, 1, 100), ("l40s", 2, 1, 100)), 128),
    Case("8 chips of 8 kinds", (
        ("h100-sxm-80g", 1, 1, 100), ("a100-sxm-80g", 1, 1, 100), ("rtx-4090", 1, 1, 100),
        ("l40s", 1, 1, 100), ("a100-pcie-80g", 1, 1, 100), ("h100-pcie-80g", 1, 1, 100),
        ("rtx-3090", 1, 1, 100), ("l4", 1, 1, 100)), 128),
    Case("8 chips of 1 kind", (("h100-sxm-80g", 8, 1, 400),), 128),
    Case("64 mixed chips of 4 kinds", (
        ("h100-sxm-80g", 16, 2, 400), ("a100-sxm-80g", 16, 2, 200),
        ("rtx-4090", 16, 2, 100), ("v100-sxm2-32g", 16, 2, 100)), 512),
    Case("64 chips of 1 kind", (("h100-sxm-80g", 64, 8, 400),), 512),
    Case("1,024 chips of 4 kinds", (
        ("h100-sxm-80g", 256, 32, 3200), ("a100-sxm-80g", 256, 32, 1600),
        ("rtx-4090", 256, 32, 100), ("v100-sxm2-32g", 256, 32, 100)), 2048),
    Case("10,000 chips of 6 kinds", (
        ("h100-sxm-80g", 2000, 250, 3200), ("a100-sxm-80g", 2000, 250, 1600),
        ("rtx-4090", 2000, 250, 100), ("v100-sxm2-32g", 2000, 250, 100),
        ("l40s", 1000, 125, 200), ("rtx-3090", 1000, 125, 25)), 20000),
)  # fmt: skip

MODELS = ("llama3-8b", "llama3-70b")
SPACES = {"trainable": TRAINABLE, "any": ANY}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clusters", type=int, default=NUM_CLUSTERS, help="Random ones.")
    parser.add_argument(
        "--most-chips", type=int, default=MOST_CHIPS, help="Leave out larger cases."
    )
    parser.add_argument("--json", action="store_true", help="Print one JSON object at the end.")
    arguments = parser.parse_args()
    result = optimality(arguments.clusters) | searches(arguments.most_chips)
    if arguments.json:
        print(json.dumps(result))


def optimality(num_clusters: int) -> dict[str, Any]:
    """The gaps of random clusters; in every fourth chips may share a stage."""
    gaps: dict[str, list[float]] = {name: [] for name in SPACES}
    worst, began = (0.0, -1), time.process_time()
    for seed in range(num_clusters):
        name = "any" if seed % 4 == 3 else "trainable"
        recipe, cluster = random_case(seed, MOST_GROUPED if name == "any" else 6)
        gap = gap_of(recipe, cluster, SPACES[name])
        gaps[name].append(gap)
        worst = max(worst, (gap, seed))
    for name, each in gaps.items():
        say(f"{len(each)} small clusters, {name}: worst gap {max(each, default=0):.3%}")
    say(f"worst seed {worst[1]}; {time.process_time() - began:.0f} s")
    every = [gap for each in gaps.values() for gap in each]
    return {
        "clusters": num_clusters,
        "optimality_gap_max": max(every, default=0.0),
        "optimality_gap_mean": statistics.fmean(every) if every else 0.0,
    }


def gap_of(recipe: Recipe, cluster: Cluster, space: Space) -> float:
    """By which share the plan's step is longer than the shortest."""
    try:
        found_s = search(recipe, cluster, space=space).step_s
    except NoPlanError:
        found_s = float("inf")
    best_s = BruteForce(recipe, cluster, space, found_s).run()
    return 0.0 if best_s == found_s else found_s / best_s - 1


def random_case(seed: int, most_chips: int) -> tuple[Recipe, Cluster]:
    """A few chips of any speed and memory, some alike, any links, a small model and batch."""
    draw = random.Random(seed)
    num_chips = draw.randint(2, most_chips)
    model = ModelConfig(
        layers=draw.randint(1, {2: 5, 3: 5, 4: 4, 5: 3, 6: 3}[num_chips]),
        width=draw.choice((64, 128, 256)),
        heads=4,
        vocab_size=draw.choice((300, 1000, 4000)),
        tied_head=draw.random() < 0.5,
        positions=draw.choice(("learned", "rotary")),
    )
    batch = draw.randint(2, {2: 9, 3: 7, 4: 6, 5: 5, 6: 5}[num_chips])
    recipe = Recipe(model=model, batch=BatchConfig(sequence_length=128, global_batch=batch))
    formats: tuple[Precision, ...] = draw.choice((("fp32",), ("bf16",), ("fp32", "bf16")))
    kinds = [_random_chip(draw, formats) for _ in range(draw.randint(1, num_chips))]
    chips = tuple(_named(draw.choice(kinds), f"chip{index}") for index in range(num_chips))
    default = Link(bandwidth_bytes_per_s=draw.choice((1e7, 1e8, 1e9)), latency_s=1e-4)
    links = [
        Link(between=pair, bandwidth_bytes_per_s=draw.choice((1e7, 1e9)), latency_s=1e-3)
        for pair in combinations([chip.name for chip in chips], 2)
        if draw.random() < 0.1
    ]
    return recipe, Cluster(chips=chips, links=(default, *links))


def _random_chip(draw: random.Random, formats: tuple[Precision, ...]) -> dict[str, Any]:
    own = draw.choice(formats)
    return {
        "kind": "any",
        "emulated": True,
        "precision": own,
        "flops_per_s": {own: draw.choice((1e9, 2e9, 4e9, 1e10)) * draw.choice((1.0, 1.3))},
        "memory_bytes": int(draw.choice((2e7, 5e7, 1e8, 1e9, 1e9))),
        "memory_bandwidth_bytes_per_s": draw.choice((1e9, 1e10, 1e11)),
    }


def _named(figures: dict[str, Any], name: str) -> Chip:
    return Chip(name=name, **figures)


def searches(most_chips: int) -> dict[str, Any]:
    """Time of every large search, and its plan beside the best one made by hand."""
    seconds: dict[str, float] = {}
    behind: dict[str, float] = {}
    for case in CASES:
        if sum(count for _, count, _, _ in case.groups) > most_chips:
            continue
        cluster = cluster_of(case)
        for model in MODELS:
            batch = BatchConfig(sequence_length=SEQUENCE_LENGTH, global_batch=case.global_batch)
            recipe = Recipe(model=model_named(model), batch=batch)
            for name, space in SPACES.items():
                key = f"{case.name}, {model}, {name}"
                plan, seconds[key] = timed_search(recipe, cluster, space)
                text = f"{key}: {seconds[key]:.2f} s"
                if plan is None:
                    say(f"{text}, fits nowhere")
                    continue
                by_hand = best_by_hand(recipe, cluster, space)
                if by_hand:
                    behind[key] = by_hand.tokens_per_s / plan.tokens_per_s - 1
                    text += f", by hand {behind[key]:+.1%} ({by_hand.label})"
                say(f"{text}, {plan.tokens_per_s:.4g} tokens/s on {len(plan.chips)} chips")
    return {"search_s": seconds, "by_hand_max": max(behind.values(), default=0.0)}


def timed_search(recipe: Recipe, cluster: Cluster, space: Space) -> tuple[Plan | None, float]:
    """The plan, and CPU seconds until its explanation is written."""
    best = float("inf")
    plan = None
    for _ in range(TWO_TURNS):
        began = time.process_time()
        try:
            plan = search(recipe, cluster, space=space)
            with open("/dev/null", "w", encoding="utf-8") as nowhere:
                Console(file=nowhere, width=80).print(render(plan, recipe, cluster))
        except NoPlanError:
            plan = None
        best = min(best, time.process_time() - began)
        if best > 5:
            break
    return plan, best


def cluster_of(case: Case) -> Cluster:
    """The case's cluster, as its file would say it."""
    groups = [
        {
            "name": kind,
            "kind": kind,
            "count": count,
            "nodes": nodes,
            "network_gbit_per_s": gbit_per_s,
            "network_latency_s": 2e-5,
        }
        for kind, count, nodes, gbit_per_s in case.groups
    ]
    return parse_cluster({"name": case.name, "group": groups}, case.name)


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
