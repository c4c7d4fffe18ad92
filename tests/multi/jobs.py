"""What the tests with several processes share: small recipes, fast clusters, finished runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from motley.chips.chip import Chip
from motley.cluster import Cluster
from motley.data import PreparedData, prepare
from motley.events import Event, EventTail, read_events
from motley.plan.plan import Plan
from motley.plan.search.build import build_plan
from motley.plan.search.choices import ReplicaChoice, StageChoice
from motley.recipe import Recipe, parse_recipe
from motley.train.folder import RunFolder, create_run_folder
from motley.train.launch import Job, start
from motley.train.selection import select
from motley.units import Precision

SMALL: dict[str, Any] = {
    "name": "small",
    "model": {"layers": 4, "width": 32, "heads": 2, "context": 32},
    "data": {"vocab_size": 512, "held_out_share": 0.2},
    "batch": {"sequence_length": 32, "global_batch": 16},
    "optimizer": {"learning_rate": 3e-3},
    "schedule": {"steps": 50, "warmup_steps": 5},
    "validation": {"every_steps": 25, "max_samples": 16},
    "checkpoint": {"every_steps": 20, "keep": 2},
}

Pipeline = tuple[tuple[int, int, int], ...]
"""(chip, first layer, last layer) of each stage."""


def recipe(**changes: dict[str, Any]) -> Recipe:
    """The small recipe with sections changed."""
    table = {key: dict(value) if isinstance(value, dict) else value for key, value in SMALL.items()}
    for section, values in changes.items():
        table[section] = {**table.get(section, {}), **values}
    return parse_recipe(table)


def cluster(*precisions: Precision) -> Cluster:
    """Emulated chips that are faster than any host, so that tests do not wait for the emulation."""
    chips = tuple(
        Chip(
            name=f"chip-{index}",
            kind="test",
            emulated=True,
            precision=precision,
            flops_per_s={precision: 1e15},
            memory_bytes=10**9,
            memory_bandwidth_bytes_per_s=1e15,
            source="emulated",
        )
        for index, precision in enumerate(precisions)
    )
    return Cluster(name="test", chips=chips)


def plan_of(recipe: Recipe, cluster: Cluster, *replicas: tuple[Pipeline, int, int]) -> Plan:
    """A plan by hand; each replica is (stages, micro-batch size, samples)."""
    split = tuple(
        ReplicaChoice(tuple(StageChoice(*stage) for stage in stages), size, samples)
        for stages, size, samples in replicas
    )
    return build_plan(split, recipe, cluster)


def prepared(recipe: Recipe, base: Path) -> tuple[Recipe, PreparedData]:
    """A small corpus of real text: the interpreter's own json and email packages."""
    import email
    import json

    sources = tuple(str(Path(module.__file__ or "").parent) for module in (json, email))
    data = prepare(
        sources,
        None,
        recipe.data.vocab_size,
        recipe.data.held_out_share,
        base / "cache",
        report=lambda text: None,
    )
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, corpus=sources))
    return recipe.with_vocabulary(data.tokenizer.vocab_size), data


def make_run(
    path: Path, recipe: Recipe, cluster: Cluster, plan: Plan, data: PreparedData
) -> RunFolder:
    """A run folder that is ready to start."""
    folder = create_run_folder(path)
    folder.write(recipe, cluster, plan, data.folder)
    if recipe.selection is not None:
        folder.write_selection(select(recipe, data, lambda text: None))
    return folder


def train(
    path: Path, recipe: Recipe, cluster: Cluster, plan: Plan, data: PreparedData
) -> RunFolder:
    """A finished run."""
    folder = make_run(path, recipe, cluster, plan, data)
    start(folder).finish()
    return folder


def wait_for(job: Job, kind: str, count: int = 1) -> None:
    """Until the run has written so many events of that kind."""
    tail = EventTail(job.folder.events)
    while count > 0:
        ended = job.wait(0.05)
        count -= sum(event["event"] == kind for event in tail.read())
        assert count <= 0 or not ended, job.failure()


def events(folder: RunFolder, kind: str) -> list[Event]:
    """The run's events of one kind."""
    return [event for event in read_events(folder.events) if event["event"] == kind]


def losses(folder: RunFolder) -> dict[int, float]:
    """Step to training loss; a repeated step's later one counts."""
    return {event["step"]: event["loss"] for event in events(folder, "step")}
