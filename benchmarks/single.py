"""How much of one real chip's matmul peak training reaches, beside a plain loop.

    python benchmarks/single.py --json                  # the CPU, 10M-parameter GPT-2 shape
    python benchmarks/single.py --json --device cuda    # an accelerator, GPT-2 124M

Each contestant is a process of its own, so that none tunes the memory of another. All take turns in
each round: the peak first, then some steps each; ratios are taken within a round and their median
is reported, so that a host whose speed drifts favours nobody. The FLOPs are the model's (matrix
products, causal attention counted as half, backward twice the forward), for all alike. The format
is the one that `motley probe` would choose for the device, and the peak is that format's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from common import one_chip, origin, prepared, run_script, say
from motley.chips.measure import measure_matmul
from motley.chips.precision import choose_precision
from motley.model.counts import model_counts
from motley.recipe import parse_recipe
from motley.units import Precision

SMALL = {"layers": 6, "width": 384, "heads": 6, "context": 256}
"""10.6 M parameters in the blocks, 12.3 M with embeddings."""
GPT2_124M = {"layers": 12, "width": 768, "heads": 12, "context": 1024, "vocab_size": 50304}
PLAIN = {
    "bf16": ("bf16-kept-memory", "bf16-weights", "bf16-autocast", "fp32"),
    "fp32": ("fp32-kept-memory", "fp32"),
}
"""The first is the plain loop with the C library told to keep freed memory, as motley does."""
WARM_UP_STEPS = 2


class Contestant:
    """A worker process that takes turns."""

    def __init__(self, name: str, job: Path) -> None:
        worker = Path(__file__).with_name("single_worker.py")
        self.process = subprocess.Popen(
            [sys.executable, str(worker), name, str(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def turn(self, count: int) -> float:
        """Lets it do `count` steps (seconds), or the peak `count` windows (FLOP/s)."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a contestant ended early; its error stands above")
        return line

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def training_precision(device: str) -> Precision:
    """bf16 or fp32, as the probe chooses from the rates of this device's matmuls."""
    rates: dict[Precision, float] = {}
    for precision in ("fp32", "bf16"):
        found = measure_matmul(torch.device(device), precision, 2 * 10**9, seconds=2.0)
        rates[precision] = found.rate.median
    precision, reason = choose_precision(rates)
    say(reason)
    return precision


def job_for(device: str, precision: Precision) -> tuple[dict[str, Any], float, int]:
    """The job file's content, FLOPs of one token, tokens of one step."""
    on_cpu = device == "cpu"
    recipe, data = prepared(
        parse_recipe(
            {
                "name": "single",
                "model": SMALL if on_cpu else GPT2_124M,
                "data": {"vocab_size": 4096},
                "batch": {
                    "sequence_length": 256 if on_cpu else 1024,
                    "global_batch": 32 if on_cpu else 16,
                },
            }
        )
    )
    cluster = one_chip(precision, 8 * 10**9 if on_cpu else 60 * 10**9, device)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    job = {
        "recipe": recipe.to_dict(),
        "cluster": cluster.to_dict(),
        "data": str(data.folder),
        "device": device,
        "precision": precision,
        "threads": threads,
    }
    flops = model_counts(recipe.model, recipe.batch.sequence_length).flops_per_token
    return job, flops, recipe.tokens_per_step


def measure(device: str, rounds: int, steps: int) -> dict[str, Any]:
    """Rounds in which all take turns."""
    precision = training_precision(device)
    plain = PLAIN[precision]
    job, flops_per_token, tokens_per_step = job_for(device, precision)
    with tempfile.TemporaryDirectory(prefix="motley-benchmark-") as base:
        path = Path(base) / "job.json"
        path.write_text(json.dumps(job))
        names = ("peak", "motley", *plain)
        contestants = {name: Contestant(name, path) for name in names}
        try:
            for name in names[1:]:
                contestants[name].turn(WARM_UP_STEPS)
            turns: dict[str, list[float]] = {name: [] for name in names}
            for _ in range(rounds):
                turns["peak"].append(contestants["peak"].turn(3))
                for name in names[1:]:
                    rate = tokens_per_step * steps / contestants[name].turn(steps)
                    turns[name].append(rate)
                say(", ".join(f"{name} {values[-1]:.4g}" for name, values in turns.items()))
        finally:
            for contestant in contestants.values():
                contestant.close()
    return {"precision": precision} | _result(turns, flops_per_token, plain)


def _result(
    turns: dict[str, list[float]], flops_per_token: float, plain: tuple[str, ...]
) -> dict[str, Any]:
    def share(name: str) -> float:
        pairs = zip(turns[name], turns["peak"], strict=True)
        return statistics.median(rate * flops_per_token / peak for rate, peak in pairs)

    def speed_up(name: str) -> float:
        pairs = zip(turns["motley"], turns[name], strict=True)
        return statistics.median(ours / theirs for ours, theirs in pairs)

    return {
        "share_of_peak": share("motley"),
        "tokens_per_s": statistics.median(turns["motley"]),
        "flops_per_token": flops_per_token,
        "matmul_peak_flops_per_s": statistics.median(turns["peak"]),
        "peers": [
            {
                "name": f"plain loop, {name}",
                "tokens_per_s": statistics.median(turns[name]),
                "share_of_peak": share(name),
                "motley_is_faster_by": speed_up(name),
            }
            for name in plain
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--device", default="cpu", help="a PyTorch device, such as cuda")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=3, help="steps of a turn")
    arguments = parser.parse_args()
    result = measure(arguments.device, arguments.rounds, arguments.steps)
    result |= {"device": arguments.device, "source": "measured", "origin": origin()}
    print(json.dumps(result, indent=None if arguments.json else 2))


if __name__ == "__main__":
    run_script(main)
