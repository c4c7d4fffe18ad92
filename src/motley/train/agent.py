"""Starts the processes of a run through torchelastic: `python -m motley.train.agent RUN WORKER`.

WORKER is the module that each rank runs. The agent is a process of its own, so that the launcher
stays free to show progress and to answer Ctrl-C. It ends when all ranks have ended; if one fails,
the others are stopped within seconds and the exit codes go into the run's `failures` folder. If its
own parent disappears, it takes the ranks with it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from motley.train.folder import EXIT_CODES, RunFolder, open_run_folder
from motley.train.orphan import follow_parent


def main() -> int:
    """Runs all ranks of the plan on this machine."""
    path, worker = sys.argv[1:]
    folder = open_run_folder(Path(path))
    follow_parent()
    try:
        elastic_launch(_config(folder), sys.executable)("-u", "-m", worker, str(folder.path))
    except ChildFailedError as failure:
        codes = {rank: each.exitcode for rank, each in failure.failures.items()}
        folder.failures.mkdir(exist_ok=True)
        (folder.failures / EXIT_CODES).write_text(json.dumps(codes), encoding="utf-8")
        return 1
    return 0


def _config(folder: RunFolder) -> LaunchConfig:
    folder.logs.mkdir(exist_ok=True)
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=folder.plan().world_size,
        run_id=folder.path.name,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        max_restarts=0,
        monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder.logs), redirects=Std.ALL),
    )


if __name__ == "__main__":
    sys.exit(main())
