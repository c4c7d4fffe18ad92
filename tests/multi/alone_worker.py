"""Trains runs of one rank one after the other, in this process: `alone_worker.py RUN...`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from motley.train.folder import open_run_folder
from motley.train.worker import run_alone

if __name__ == "__main__":
    for path in sys.argv[1:]:
        run_alone(open_run_folder(Path(path)))
    sys.stderr.flush()
    os._exit(0)
