"""Trains runs of one rank one after the other, in this process: `alone_worker.py RUN...`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch.distributed as dist

from motley.train.folder import open_run_folder
from motley.train.worker import recipe_course, run_rank

if __name__ == "__main__":
    os.environ |= {
        "RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0",
    }  # fmt: skip
    for path in sys.argv[1:]:
        folder = open_run_folder(Path(path))
        run_rank(folder, 0, folder.plan_chip(0), recipe_course)
        dist.destroy_process_group()
    sys.stderr.flush()
    os._exit(0)
