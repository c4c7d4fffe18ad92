"""Trains every variant with every seed through the ordinary engine, in run folders that stay.

An ablation's folder holds `VARIANT/seed-N`, each a whole run. What has finished is never trained
again, nor what has diverged; what was stopped goes on from its newest checkpoint, so the same
command carries on.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from motley.cluster import Cluster
from motley.errors import DivergedError, MotleyError, RunFolderError, not_written
from motley.events import Event, read_events
from motley.optim.flops import training_flops
from motley.recipe import GrowthConfig, Recipe
from motley.train.folder import RunFolder, open_run_folder
from motley.train.prepare import Report, new_run, resume_run

Train = Callable[[RunFolder], None]
"""Runs a run's folder to its end, or to a stop that the user asked for; raises if it fails."""

DIVERGED = "diverged.txt"
"""In a run's folder, with the message: its training was lost. A run that was taken up by hand and
came to its end counts as any other."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One run of an ablation."""

    variant: str
    seed: int
    recipe: Recipe
    path: Path


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished run gave."""

    variant: str
    seed: int
    bits_per_byte: float
    """Of the last validation; infinite if the training diverged."""
    curve: tuple[tuple[int, float], ...]
    """(step, bits per byte) of every validation."""
    tokens: int
    flops: float
    """Of the whole training, counted: what was trained before it and its optimizer's too."""
    training_s: float
    """Wall time of its steps."""
    path: Path


def tasks_of(recipes: Mapping[str, Recipe], seeds: Sequence[int], folder: Path) -> list[Task]:
    """All runs: each seed goes through all variants before the next begins, so that what is done
    at any moment compares like with like."""
    slugs = _slugs(recipes)
    return [
        Task(
            variant=variant,
            seed=seed,
            recipe=dataclasses.replace(recipe, name=slugs[variant], seed=seed),
            path=folder / slugs[variant] / f"seed-{seed}",
        )
        for seed in seeds
        for variant, recipe in recipes.items()
    ]


def train_all(
    tasks: Sequence[Task], cluster: Cluster, train: Train, report: Report
) -> Iterator[Outcome | None]:
    """Trains what is not done yet; gives each run's outcome, and None, as the last, for one that
    was stopped before its end."""
    for number, task in enumerate(tasks, 1):
        outcome = finished(task)
        if outcome is None:
            report(f"Run {number} of {len(tasks)}: {task.variant}, seed {task.seed}.")
            outcome = _trained(task, cluster, train, report)
        yield outcome
        if outcome is None:
            return


def _trained(task: Task, cluster: Cluster, train: Train, report: Report) -> Outcome | None:
    """One run's outcome; None if it was stopped before its end."""
    folder = _opened(task, cluster, report)
    try:
        train(folder)
    except DivergedError as end:
        report(f"{task.variant}, seed {task.seed}: {end.message} It counts as without end.")
        _keep_diverged(folder, end.message)
    return finished(task)


def _keep_diverged(folder: RunFolder, message: str) -> None:
    path = folder.path / DIVERGED
    try:
        path.write_text(f"{message}\n", encoding="utf-8")
    except OSError as cause:
        raise not_written(path, cause, "Free space.") from None


def finished(task: Task) -> Outcome | None:
    """The outcome of a run that has come to its end or diverged; None if neither has happened, or
    it was never begun.

    `RunFolderError` if the folder holds a run of another recipe.
    """
    if not (task.path / "recipe.json").is_file():
        return None
    folder = open_run_folder(task.path)
    _require_same(folder, task)
    if (outcome := _at_the_end(task, folder)) is not None:
        return outcome
    if not (folder.path / DIVERGED).is_file():
        return None
    return Outcome(
        variant=task.variant, seed=task.seed, bits_per_byte=math.inf, curve=(), tokens=0,
        flops=0.0, training_s=0.0, path=task.path,
    )  # fmt: skip


def _at_the_end(task: Task, folder: RunFolder) -> Outcome | None:
    """What the events of a run say that has come to its end."""
    try:
        events = read_events(folder.events)
    except MotleyError:
        return None
    ends = [event for event in events if event["event"] == "run_finished"]
    checks = _last_by_step(event for event in events if event["event"] == "validation")
    if not ends or ends[-1]["reason"] != "done" or not checks:
        return None
    steps = _last_by_step(event for event in events if event["event"] == "step")
    return Outcome(
        variant=task.variant,
        seed=task.seed,
        bits_per_byte=_number(checks[-1]["bits_per_byte"]),
        curve=tuple((event["step"], _number(event["bits_per_byte"])) for event in checks),
        tokens=sum(event["tokens"] for event in steps),
        flops=training_flops(folder.recipe()),
        training_s=sum(event["step_s"] for event in steps),
        path=task.path,
    )


def _opened(task: Task, cluster: Cluster, report: Report) -> RunFolder:
    """The run's folder, new or to be resumed."""
    if (task.path / "recipe.json").is_file():
        return resume_run(task.path, cluster, None, report)[0]
    return new_run(task.recipe, cluster, None, task.path, report)[0]


def _require_same(folder: RunFolder, task: Task) -> None:
    found, wanted = folder.recipe(), task.recipe
    vocab_size = wanted.model.vocab_size or found.model.vocab_size
    model = dataclasses.replace(wanted.model, vocab_size=vocab_size)
    if found != dataclasses.replace(wanted, model=model, growth=_resolved(wanted, found)):
        raise RunFolderError(
            f"{task.path} holds a run of another recipe than '{task.variant}', seed {task.seed}.",
            remedy="Name another folder with --out, or delete that run.",
        )


def _resolved(wanted: Recipe, found: Recipe) -> GrowthConfig | None:
    """The growth that is wanted, with what a new run fills in taken from the one that is there."""
    if wanted.growth is None or found.growth is None:
        return wanted.growth
    steps = found.growth.steps if wanted.growth.steps is None else wanted.growth.steps
    run = str(Path(wanted.growth.run).resolve())
    return dataclasses.replace(wanted.growth, run=run, steps=steps, flops=found.growth.flops)


def _last_by_step(events: Iterator[Event]) -> list[Event]:
    """In the order of steps; of one that a resumed run has done again, the last."""
    return sorted({event["step"]: event for event in events}.values(), key=lambda e: e["step"])


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _slugs(names: Mapping[str, Recipe]) -> dict[str, str]:
    """A folder's name for each variant, all unlike."""
    found: dict[str, str] = {}
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[:60] or "variant"
        slug, number = plain, 1
        while slug in found.values():
            number += 1
            slug = f"{plain}-{number}"
        found[name] = slug
    return found
