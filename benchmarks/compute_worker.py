"""One run of `compute.py` in a process of its own: `compute_worker.py RUN THREADS`.

The product's worker as it is, alone in its world, with a course that also counts processor time.
The seconds of a run that was stopped are kept in its folder and go on with it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch

from motley.events import read_events
from motley.train.course import Course
from motley.train.engine import StepResult
from motley.train.folder import RunFolder, open_run_folder
from motley.train.orphan import follow_parent
from motley.train.worker import Rank, run_alone

SECONDS = "seconds.json"
"""In the run's folder: [updates done, process seconds, wall seconds] of the training steps."""
RESULT = "result.json"
"""In the run's folder: what a finished run gave."""
_EVERY = 5


class TimedCourse(Course):
    """The recipe's course, with the seconds that its steps take."""

    def __init__(self, rank: Rank, threads: int) -> None:
        super().__init__(rank.engine.recipe)
        self._file = rank.folder.path / SECONDS
        self._threads = threads
        self._marks: list[list[float]] = []
        self._began = (0.0, 0.0)

    def begin(self, step: int) -> int:
        torch.set_num_threads(self._threads)
        kept = json.loads(self._file.read_text()) if self._file.exists() else []
        self._marks = [mark for mark in kept if mark[0] <= step] or [[0, 0.0, 0.0]]
        self._began = (time.process_time(), time.monotonic())
        return super().begin(step)

    def after_step(self, step: int, result: StepResult) -> None:
        super().after_step(step, result)
        if step % _EVERY == 0 or self.is_over(step):
            now = (time.process_time(), time.monotonic())
            last, self._began, before = self._marks[-1], now, self._began
            self._marks.append([step, *(last[i + 1] + now[i] - before[i] for i in range(2))])
            self._file.write_text(json.dumps(self._marks[-200:]))


def write_result(folder: RunFolder, **figures: float) -> None:
    """What the run gave, for the harness."""
    (folder.path / RESULT).write_text(json.dumps(figures))


def distil(folder: RunFolder) -> None:
    """Writes the result of a finished run, from its events and its seconds."""
    events = read_events(folder.events)
    check = [event for event in events if event["event"] == "validation"][-1]
    steps = {event["step"]: event for event in events if event["event"] == "step"}.values()
    _, process_s, wall_s = json.loads((folder.path / SECONDS).read_text())[-1]
    write_result(
        folder,
        steps=len(steps),
        tokens=sum(event["tokens"] for event in steps),
        bits_per_byte=check["bits_per_byte"],
        loss=check["loss"],
        process_s=process_s,
        wall_s=wall_s,
        validation_s=check["seconds"],
    )


def main(run: Path, threads: int) -> None:
    """Trains the run's one rank here, from its newest checkpoint on."""
    folder = open_run_folder(run)
    run_alone(folder, lambda rank: TimedCourse(rank, threads))
    distil(folder)


if __name__ == "__main__":
    follow_parent()
    main(Path(sys.argv[1]), int(sys.argv[2]))
    sys.stderr.flush()
    os._exit(0)  # skips the teardown of libraries, as the product's worker does
