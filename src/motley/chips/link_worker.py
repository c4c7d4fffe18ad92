"""One process of a link measurement on this machine: `python -m motley.chips.link_worker`.

It reads the job from a folder, joins the others there, and leaves `started-RANK`, and then
`error-RANK` or, from rank 0, `result.json`. `motley.chips.links` starts it.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from motley.chips import vendors
from motley.chips.ping_pong import join, measure_pairs
from motley.errors import MotleyError


def run(folder: Path, rank: int) -> None:
    """Takes part in the job of `folder` as `rank`."""
    (folder / f"started-{rank}").touch()
    job: dict[str, Any] = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    device = torch.device(job["devices"][rank])
    if device.type != "cpu":
        vendors.available_devices()
        vendors.collective_backend(device.type)
        torch.accelerator.set_device_index(device)
    meeting = (folder / "meeting").as_uri()
    join(job["backend"], meeting, rank, len(job["devices"]), job["timeout_s"])
    try:
        found = measure_pairs(job["names"], device, job["seconds"], job["sizes"])
    finally:
        dist.destroy_process_group()
    if rank == 0:
        entries = [
            [
                *measurement.ranks,
                measurement.link.bandwidth_bytes_per_s,
                measurement.link.latency_s,
                [dataclasses.astuple(point) for point in measurement.points],
            ]
            for measurement in found
        ]
        (folder / "result.json").write_text(json.dumps(entries), encoding="utf-8")


def main() -> None:
    """Runs the job; what goes wrong is left in the folder as one message."""
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    try:
        run(folder, rank)
    except MotleyError as error:
        (folder / f"error-{rank}").write_text(error.message, encoding="utf-8")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
