"""Bytes against loss: local steps x codec, beside data-parallel training and plain DiLoCo.

    python benchmarks/federation_frontier.py --size S --json
    python benchmarks/federation_frontier.py --size XS --steps 300 --only "topk 1/32, H 12"

Four parties in one process train the same tokens with the product's model, AdamW, codecs and merge
(see `federated_training.py`). `bytes_ratio` is what a ring all-reduce of fp32 gradients moves at a
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
from federated_training import Federation, Job, Rounds, build_recipe, data_parallel, ring_bytes
from motley.federation.codec import CodecConfig
from motley.federation.terms import OuterConfig

RESULTS = Path(__file__).parent / "results" / "federation_frontier.json"
NUM_PARTIES = 4
RATES = {"XS": 1e-2, "S": 7e-3, "M": 5e-3}
"""AdamW's; for all contestants of a size."""
STEPS = {"XS": 1000, "S": 1000, "M": 1000}
DATA_PARALLEL = "data parallel"
PLAIN_DILOCO = "DiLoCo fp32, H 100"


@dataclass(frozen=True, kw_only=True)
class Contestant:
    name: str
    rounds: Rounds


def nesterov(name: str, local_steps: int, codec: CodecConfig, **rounds: Any) -> Contestant:
    outer = OuterConfig(kind="nesterov", learning_rate=0.7, momentum=0.9)
    return Contestant(
        name=name, rounds=Rounds(local_steps=local_steps, codec=codec, outer=outer, **rounds)
    )


def sparse(share: int, local_steps: int, decay: float = 1.0, **rounds: Any) -> Contestant:
    """The largest `share` of 128."""
    extra = "".join(f", {key.replace('_', ' ')} {value}" for key, value in rounds.items())
    name = f"topk {share}/128, H {local_steps}" + (f", decay {decay}" if decay < 1 else "") + extra
    codec = CodecConfig(kind="topk", density=share / 128, feedback_decay=decay)
    outer = OuterConfig(kind="average", learning_rate=1.0)
    return Contestant(
        name=name, rounds=Rounds(local_steps=local_steps, codec=codec, outer=outer, **rounds)
    )


def contestants() -> list[Contestant]:
    """About 1,000 times fewer bytes in several ways, and what lies on either side."""
    return [
        nesterov(PLAIN_DILOCO, 100, CodecConfig(kind="fp32")),
        sparse(2, 7),
        sparse(4, 12),
        sparse(8, 20),
        sparse(4, 12, 0.95),
        sparse(4, 4),
        sparse(4, 30),
        sparse(2, 30),
        nesterov("int8, H 30", 30, CodecConfig(kind="int8")),
        nesterov("int4, H 30", 30, CodecConfig(kind="int4")),
        nesterov("int4, H 168", 168, CodecConfig(kind="int4")),
        sparse(4, 12, fragments=4, delay_steps=2),
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
    """What earlier calls have measured."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def fill(job: Job, key: str, chosen: list[Contestant]) -> None:
    """Measures what is missing of one job, row by row."""
    for contestant in [None, *chosen]:
        name = contestant.name if contestant else DATA_PARALLEL
        table = kept()
        rows = table.setdefault(key, {"num_parameters": job.num_parameters, "rows": {}})["rows"]
        if name in rows:
            continue
        began = time.process_time()
        row = measure(job, contestant) if contestant else {"bits_per_byte": data_parallel(job)}
        row["cpu_s"] = round(time.process_time() - began, 1)
        row["origin"] = origin()
        table = kept()
        table.setdefault(key, {"num_parameters": job.num_parameters, "rows": {}})["rows"][name] = (
            row
        )
        RESULTS.write_text(json.dumps(table, indent=1) + "\n")


def with_penalties(rows: dict[str, Any]) -> dict[str, Any]:
    """The rows with their loss over data-parallel training's, as a share."""
    base = rows[DATA_PARALLEL]["bits_per_byte"]
    return {
        name: {**row, "loss_penalty": row["bits_per_byte"] / base - 1} for name, row in rows.items()
    }


def best(rows: dict[str, Any], at_least: float = 1000.0) -> str | None:
    """The contestant with the lowest loss among those that move so many times fewer bytes."""
    there = [name for name, row in rows.items() if row.get("bytes_ratio", 0.0) >= at_least]
    return min(there, key=lambda name: rows[name]["bits_per_byte"], default=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=sorted(RATES), default="XS")
    parser.add_argument("--steps", type=int, help="instead of the size's own")
    parser.add_argument("--rate", type=float, help="AdamW's, instead of the size's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="names of contestants")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    steps = chosen.steps or STEPS[chosen.size]
    rate = chosen.rate or RATES[chosen.size]
    job = Job(build_recipe(chosen.size, steps=steps, rate=rate, seed=chosen.seed), lambda _: None)
    key = f"{chosen.size}, {steps} steps, rate {rate:g}, seed {chosen.seed}"
    pool = [each for each in contestants() if chosen.only is None or each.name in chosen.only]
    fill(job, key, pool)
    rows = with_penalties(kept()[key]["rows"])
    if chosen.json:
        print(json.dumps({"job": key, "best": best(rows), "rows": rows}))
        return
    print(key)
    for name, row in rows.items():
        ratio = f"{row['bytes_ratio']:8.0f}x" if "bytes_ratio" in row else " " * 9
        print(f"{name:40} {row['bits_per_byte']:.4f} {row['loss_penalty']:+8.2%} {ratio}")


if __name__ == "__main__":
    main()
