"""What the benchmarks share: running a plan for real, and reading off what it gave."""

from __future__ import annotations

import dataclasses
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from motley import kernels
from motley.chips.chip import Chip
from motley.cluster import Cluster
from motley.data import PreparedData
from motley.errors import MotleyError
from motley.events import read_events
from motley.plan.plan import Plan
from motley.recipe import Recipe
from motley.train.folder import RunFolder, create_run_folder
from motley.train.launch import start
from motley.train.prepare import prepare_data
from motley.units import Precision

WARM_UP_STEPS = 1
"""Steps at the begin that are not counted: buffers are made, connections are opened."""


@dataclass(frozen=True)
class Measured:
    """A finished run. Figures of emulated chips are emulated."""

    step_s: float
    """Median."""
    tokens_per_s: float
    validations: tuple[tuple[float, float, float], ...]
    """(seconds from the first step's begin, step, loss)."""


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def run_script(main: Callable[[], None]) -> None:
    """Runs a benchmark; an error of ours becomes one message and its exit code, as in the CLI."""
    try:
        main()
    except MotleyError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)


def host_precision() -> Precision:
    """The format in which this host is fast enough to emulate chips."""
    kernels.enable()
    return "bf16" if kernels.usable(torch.zeros(1, dtype=torch.bfloat16)) else "fp32"


def prepared(recipe: Recipe) -> tuple[Recipe, PreparedData]:
    """The recipe with its vocabulary, and its token shards."""
    return prepare_data(recipe, lambda text: None)


def run_plan(recipe: Recipe, cluster: Cluster, plan: Plan, data: PreparedData) -> Measured:
    """Trains for the recipe's steps under the plan, in real processes; raises if that fails."""
    with tempfile.TemporaryDirectory(prefix="motley-benchmark-") as base:
        folder = create_run_folder(Path(base) / "run")
        folder.write(recipe, cluster, plan, data.folder)
        start(folder).finish()
        return _read(folder, recipe)


def _read(folder: RunFolder, recipe: Recipe) -> Measured:
    events = read_events(folder.events)
    every = recipe.validation.every_steps
    steps = [
        event
        for event in events
        if event["event"] == "step"
        and event["step"] > WARM_UP_STEPS
        and (event["step"] - 1) % every  # a validation before it takes over its optimizer's time
    ]
    step_s = statistics.median(event["step_s"] for event in steps)
    tokens = statistics.median(event["tokens"] for event in steps)
    first = next(event for event in events if event["event"] == "step")
    begin = first["time"] - first["step_s"]
    return Measured(
        step_s=step_s,
        tokens_per_s=tokens / step_s,
        validations=tuple(
            (event["time"] - begin, event["step"], event["loss"])
            for event in events
            if event["event"] == "validation"
        ),
    )


def one_chip(precision: Precision, memory_bytes: int, device: str = "cpu") -> Cluster:
    """One real chip; its rates are of no matter, as there is nothing to split."""
    chip = Chip(
        name="chip", kind="this", device=device, precision=precision,
        flops_per_s={precision: 1e12}, memory_bytes=memory_bytes,
        memory_bandwidth_bytes_per_s=2e10,
    )  # fmt: skip
    return Cluster(name="one", chips=(chip,))


def only(cluster: Cluster, name: str) -> Cluster:
    """The cluster of one of its chips."""
    return cluster.without({chip.name for chip in cluster.chips} - {name})


def with_memory(cluster: Cluster, memory_bytes: int) -> Cluster:
    """The cluster with every chip's memory limit lifted to `memory_bytes`."""
    chips = tuple(
        dataclasses.replace(chip, memory_bytes=max(memory_bytes, chip.memory_bytes))
        for chip in cluster.chips
    )
    return dataclasses.replace(cluster, chips=chips)


def with_steps(recipe: Recipe, steps: int) -> Recipe:
    """The recipe cut to that many steps."""
    return dataclasses.replace(recipe, schedule=dataclasses.replace(recipe.schedule, steps=steps))


def commit() -> str:
    """The commit that the work tree is at, with a plus if it has changes."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "src", "benchmarks/*.py")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")


def origin() -> dict[str, Any]:
    """Where and with what a result was made."""
    import torch

    return {
        "commit": commit(),
        "command": " ".join(["python", *sys.argv]),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": torch.get_num_threads(),
    }
