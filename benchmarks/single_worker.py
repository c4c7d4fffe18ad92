"""One contestant of `single.py`, in a process of its own: `single_worker.py NAME JOB.json`.

Reads a number of steps (or, for the peak, of tries) a line; answers with the seconds they took.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from motley import kernels
from motley.chips.host import keep_freed_memory
from motley.chips.runtime import TORCH_DTYPES
from motley.cluster import parse_cluster
from motley.data import PreparedData, SampleSource
from motley.federation.party.lone import lone_process
from motley.plan.search.search import search
from motley.recipe import parse_recipe
from motley.train.assemble import build_engine
from plain_loop import PlainLoop

PEAK_SIZES = (512, 1024, 2048, 4096)


def motley_stepper(job: dict[str, Any], data: PreparedData) -> Callable[[int], float]:
    """Steps of motley's engine on one real chip, as its worker runs them. In a `lone_process`."""
    recipe, cluster = parse_recipe(job["recipe"]), parse_cluster(job["cluster"])
    keep_freed_memory()
    kernels.enable()
    engine, _ = build_engine(recipe, cluster, search(recipe, cluster), 0)
    source = SampleSource(data.train, recipe.batch.sequence_length, recipe.seed)
    done = 0

    def run(steps: int) -> float:
        nonlocal done
        began = time.monotonic()
        for _ in range(steps):
            rate = recipe.optimizer.learning_rate
            engine.train_step(done, source, rate=rate, stop=False)
            done += 1
        engine.runtime.synchronize()
        return time.monotonic() - began

    return run


def plain_stepper(job: dict[str, Any], data: PreparedData, form: str) -> Callable[[int], float]:
    """Steps of the plain loop on the same batches."""
    recipe = parse_recipe(job["recipe"])
    if form.endswith("kept-memory"):
        keep_freed_memory()
    source = SampleSource(data.train, recipe.batch.sequence_length, recipe.seed)
    loop = PlainLoop(recipe.model, form, str(job["device"]))
    batch, done = recipe.batch.global_batch, 0

    def run(steps: int) -> float:
        nonlocal done
        began = time.monotonic()
        for _ in range(steps):
            tokens, targets = source.batch(range(done * batch, (done + 1) * batch))
            loop.step(torch.from_numpy(tokens), torch.from_numpy(targets))
            done += 1
        _synchronize(str(job["device"]))
        return time.monotonic() - began

    return run


def peak_stepper(job: dict[str, Any]) -> Callable[[int], float]:
    """Sustained matmul rate in the job's precision, FLOP/s: the best size's median over `windows`
    windows."""
    device, dtype = str(job["device"]), TORCH_DTYPES[job["precision"]]
    keep_freed_memory()

    def run(windows: int) -> float:
        return max(
            statistics.median(_matmul_rate(size, device, dtype) for _ in range(windows))
            for size in PEAK_SIZES
        )

    return run


def _matmul_rate(size: int, device: str, dtype: torch.dtype) -> float:
    """FLOP/s over a window of about 0.15 s, after one call that is not counted."""
    first, second = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty(size, size, device=device, dtype=dtype)
    torch.mm(first, second, out=out)
    _synchronize(device)
    calls, began = 0, time.monotonic()
    while (elapsed := time.monotonic() - began) < 0.15:
        torch.mm(first, second, out=out)
        _synchronize(device)
        calls += 1
    return 2 * size**3 * calls / elapsed


def _synchronize(device: str) -> None:
    if device != "cpu":
        torch.accelerator.synchronize()


def main() -> None:
    name, job_file = sys.argv[1:]
    job = json.loads(Path(job_file).read_text())
    torch.set_num_threads(job["threads"])
    with lone_process(job["threads"]) if name == "motley" else nullcontext():
        take_turns(name, job)


def take_turns(name: str, job: dict[str, Any]) -> None:
    """Answers each line of the standard input."""
    if name == "peak":
        stepper = peak_stepper(job)
    else:
        data = PreparedData.load(Path(job["data"]))
        stepper = motley_stepper(job, data) if name == "motley" else plain_stepper(job, data, name)
    print("ready", flush=True)
    for line in sys.stdin:
        print(stepper(int(line)), flush=True)


if __name__ == "__main__":
    main()
