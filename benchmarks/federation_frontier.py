"""Bytes against loss: local steps x codec, beside data-parallel training and plain DiLoCo.

    python benchmarks/federation_frontier.py --size S --json
    python benchmarks/federation_frontier.py --size XS --steps 300 --only "DiLoCo fp32, H 100"
    python benchmarks/federation_frontier.py --size XXS --optimizer muon --only

Four parties in one process train the same tokens with the product's model, optimizers, codecs and
merge (see `federated_training.py`). `loss_penalty` is over the best data-parallel training of the
same size, tokens and seed, whatever its optimizer and rate (`--only` without names trains one).
`bytes_ratio` is what a ring all-reduce of fp32 gradients moves at a
party, sent and received, over what the party's payloads move, sent and received; `payload_ratio` is
the field's way of counting: a step's fp32 gradients over a round's payload. Control objects are
not in it. Each row is kept as it is done; the command goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common import origin
from federated_training import (
    Federation,
    Job,
    Rounds,
    build_recipe,
    data_parallel,
    optimizer_of,
    ring_bytes,
)
from motley.federation.charter.terms import OuterConfig
from motley.federation.codec import CodecConfig, build_codec

RESULTS = Path(__file__).parent / "results" / "federation_frontier.json"
NUM_PARTIES = 4
RATES = {
    "adamw": {"XXS": 1e-2, "XS": 1e-2, "S": 7e-3, "M": 5e-3},
    "muon": {"XXS": 2e-2, "XS": 2e-2, "S": 2e-2, "M": 2e-2},
}
"""By optimizer; of Muon that of the blocks' matrices."""
STEPS = {"XXS": 4000, "XS": 4000, "S": 4000, "M": 3000}
"""Of 2,048 tokens. A thousand times fewer bytes leave 24 bits per parameter and 1,000 steps to all
rounds together, so that short trainings cannot be carried at all."""
DATA_PARALLEL = "data parallel"
PLAIN_DILOCO = "DiLoCo fp32, H 100"
WANTED_RATIO = 1000.0


@dataclass(frozen=True, kw_only=True)
class Contestant:
    name: str
    rounds: Rounds


def nesterov(name: str, local_steps: int, codec: CodecConfig, **rounds: Any) -> Contestant:
    outer = OuterConfig(kind="nesterov", learning_rate=0.7, momentum=0.9)
    return Contestant(
        name=name, rounds=Rounds(local_steps=local_steps, codec=codec, outer=outer, **rounds)
    )


def sparse(share: int, local_steps: int, **codec: Any) -> Contestant:
    """The largest `share` of 128."""
    extra = "".join(f", {value}" for value in codec.values())
    config = CodecConfig(kind="topk", density=share / 128, **codec)
    outer = OuterConfig(kind="average", learning_rate=1.0)
    return Contestant(
        name=f"topk {share}/128, H {local_steps}{extra}",
        rounds=Rounds(local_steps=local_steps, codec=config, outer=outer),
    )


def steps_for(job: Job, config: CodecConfig, ratio: float = WANTED_RATIO) -> int:
    """The fewest local steps with which a party moves so many times fewer bytes than a ring
    all-reduce does at every step. Payloads are counted with the padding of small tensors."""
    shapes = {name: tuple(tensor.shape) for name, tensor in job.model().state().items()}
    a_round = NUM_PARTIES * build_codec(config).payload_bytes(shapes)
    steps = job.recipe.schedule.steps
    fewest = range(1, steps + 1)
    return next(
        (h for h in fewest if ring_bytes(job, NUM_PARTIES) / (a_round * -(-steps // h)) >= ratio),
        steps,
    )


def contestants(job: Job) -> list[Contestant]:
    """1,000 times fewer bytes in several ways, and what lies on either side."""

    def topk(share: int, **codec: Any) -> Contestant:
        config = CodecConfig(kind="topk", density=share / 128, **codec)
        return sparse(share, steps_for(job, config), **codec)

    int4 = CodecConfig(kind="int4")
    return [
        nesterov(PLAIN_DILOCO, 100, CodecConfig(kind="fp32")),
        topk(2, feedback="kept"),
        topk(4, feedback="kept"),
        topk(2, feedback_decay=0.95),
        topk(4, feedback_decay=0.95),
        topk(8, feedback="kept"),
        nesterov(f"int4, H {steps_for(job, int4)}", steps_for(job, int4), int4),
        sparse(4, 30, feedback="kept"),
        sparse(2, 30, feedback="kept"),
        sparse(8, 8, feedback="kept"),
        nesterov("int8, H 30", 30, CodecConfig(kind="int8")),
    ]


def measure(job: Job, contestant: Contestant) -> dict[str, Any]:
    """One training; its row."""
    federation = Federation(job, contestant.rounds, NUM_PARTIES)
    bits = federation.train()
    return {
        "bits_per_byte": bits,
        "bytes_ratio": ring_bytes(job, NUM_PARTIES) / federation.moved_bytes,
        "payload_ratio": 4 * job.num_parameters * job.recipe.schedule.steps / federation.sent_bytes,
        "moved_bytes": federation.moved_bytes,
        "bits_per_parameter": federation.codec.bits_per_parameter,
        "rounds": dataclasses.asdict(contestant.rounds),
    }


def kept() -> dict[str, Any]:
    """What earlier calls have measured, by job."""
    if not RESULTS.exists():
        return {}
    jobs: dict[str, Any] = json.loads(RESULTS.read_text())["jobs"]
    return jobs


def fill(job: Job, key: str, chosen: list[Contestant]) -> None:
    """Measures what is missing of one job, row by row."""
    recipe = job.recipe
    about = {
        "num_parameters": job.num_parameters,
        "tokens": [recipe.schedule.steps, recipe.batch.global_batch, recipe.batch.sequence_length],
        "seed": recipe.seed,
    }
    for contestant in [None, *chosen]:
        name = contestant.name if contestant else DATA_PARALLEL
        if name in kept().get(key, {}).get("rows", {}):
            continue
        began = time.process_time()
        row: dict[str, Any] = (
            measure(job, contestant) if contestant else {"bits_per_byte": data_parallel(job)}
        )
        row["cpu_s"] = round(time.process_time() - began, 1)
        row["origin"] = origin()
        jobs = kept()
        jobs.setdefault(key, {**about, "rows": {}})["rows"][name] = row
        RESULTS.write_text(json.dumps({**summary(jobs), "jobs": jobs}, indent=1) + "\n")


def summary(jobs: dict[str, Any]) -> dict[str, Any]:
    """The best contestant of the largest model that moves a thousand times fewer bytes."""
    found: dict[str, Any] = {"bytes_ratio": None, "loss_penalty": None}
    order = (0, 0.0)
    for key, job in jobs.items():
        rows = with_penalties(jobs, key)
        name = best(rows)
        if name is not None and (job["num_parameters"], -rows[name]["loss_penalty"]) > order:
            order = (job["num_parameters"], -rows[name]["loss_penalty"])
            figures = {each: rows[name][each] for each in ("bytes_ratio", "loss_penalty")}
            found = {**figures, "job": key, "contestant": name}
    return found


def with_penalties(jobs: dict[str, Any], key: str) -> dict[str, Any]:
    """The rows of a job with their loss over data-parallel training's, as a share: the best one
    of all jobs that differ in optimizer and rate alone counts."""
    job = jobs[key]
    alike = [
        each["rows"][DATA_PARALLEL]["bits_per_byte"]
        for each in jobs.values()
        if DATA_PARALLEL in each["rows"]
        and all(each[name] == job[name] for name in ("num_parameters", "tokens", "seed"))
    ]
    return {
        name: {**row, "loss_penalty": row["bits_per_byte"] / min(alike) - 1}
        for name, row in job["rows"].items()
    }


def best(rows: dict[str, Any], at_least: float = WANTED_RATIO) -> str | None:
    """The contestant with the lowest loss among those that move so many times fewer bytes."""
    there = [name for name, row in rows.items() if row.get("bytes_ratio", 0.0) >= at_least]
    return min(there, key=lambda name: rows[name]["bits_per_byte"], default=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=sorted(STEPS), default="XS")
    parser.add_argument("--steps", type=int, help="instead of the size's own")
    parser.add_argument("--samples", type=int, default=16, help="of 128 tokens, in one step")
    parser.add_argument("--optimizer", choices=sorted(RATES), default="adamw")
    parser.add_argument("--rate", type=float, help="the optimizer's, instead of the size's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="names of contestants")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    steps = chosen.steps or STEPS[chosen.size]
    rate = chosen.rate or RATES[chosen.optimizer][chosen.size]
    recipe = build_recipe(
        chosen.size,
        steps=steps,
        optimizer=optimizer_of(chosen.optimizer, rate),
        samples=chosen.samples,
        seed=chosen.seed,
    )
    job = Job(recipe, lambda _: None)
    key = (
        f"{chosen.size}, {steps} steps of {chosen.samples} samples, {chosen.optimizer} {rate:g}, "
        f"seed {chosen.seed}"
    )
    pool = [each for each in contestants(job) if chosen.only is None or each.name in chosen.only]
    fill(job, key, pool)
    rows = with_penalties(kept(), key)
    if chosen.json:
        print(json.dumps({"job": key, "best": best(rows), "rows": rows}))
        return
    print(key)
    for name, row in rows.items():
        ratio = f"{row['bytes_ratio']:8.0f}x" if "bytes_ratio" in row else " " * 9
        print(f"{name:40} {row['bits_per_byte']:.4f} {row['loss_penalty']:+8.2%} {ratio}")


if __name__ == "__main__":
    main()
