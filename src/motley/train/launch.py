"""Starts a run, watches it, stops it: what `motley train` does once the plan is made."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from motley.errors import LaunchError, MotleyError
from motley.events import EventLog, read_events
from motley.train.failure import explain
from motley.train.folder import EXIT_CODES, RunFolder

CHIPS_BACK = "chips_back"
"""Of the `message` that chips that were lost are used again: their names."""
WORKER = "motley.train.worker"
"""The module that a rank of an ordinary run runs."""


@dataclass
class Job:
    """A run in progress on this machine."""

    folder: RunFolder
    process: subprocess.Popen[bytes]
    was_killed: bool = False
    """Ended by `kill` and not by itself, so that there is no failure to explain."""

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def wait(self, seconds: float) -> bool:
        """Waits at most `seconds`; whether the run has ended."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def request_stop(self) -> None:
        """Asks for a checkpoint after the step in progress, and a clean end."""
        self.folder.stop_request.touch()

    def kill(self) -> None:
        """Ends all ranks at once; what is newer than the last checkpoint is lost."""
        if self.is_running:
            self.was_killed = True
            self.process.send_signal(signal.SIGTERM)
            if not self.wait(10.0):
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()

    def finish(self) -> None:
        """Waits for the end, without showing anything; raises the run's error."""
        try:
            self.process.wait()
        finally:
            self.kill()
        failure = self.failure()
        if failure is not None:
            raise failure

    def failure(self) -> MotleyError | None:
        """Why the run failed; None if it ended well. Call it when the run has ended."""
        if self.process.returncode == 0:
            return None
        path = self.folder.failures / EXIT_CODES
        try:
            codes = {int(rank): code for rank, code in json.loads(path.read_text()).items()}
        except (OSError, ValueError):
            last_words = _last_line(self.folder.logs / "agent.log")
            return LaunchError(
                f"the run's processes could not be started: {last_words}",
                remedy=f"See {self.folder.logs / 'agent.log'}.",
            )
        error = explain(self.folder.failures, self.folder.plan(), codes, last_step(self.folder))
        self._record(error)
        return error

    def _record(self, error: MotleyError) -> None:
        chip = getattr(error, "chip", None)
        with EventLog.open(self.folder.events) as log:
            if chip is not None and type(error).__name__ == "ChipLostError":
                log.write("chip_lost", chip=chip, reason=error.message, step=last_step(self.folder))
            else:
                log.write("message", text=error.message)
            log.write("run_finished", step=last_step(self.folder), reason="failed", seconds=None)


def start(folder: RunFolder, worker: str = WORKER) -> Job:
    """Starts all ranks of the run's plan on this machine; each runs the module `worker`."""
    folder.stop_request.unlink(missing_ok=True)
    shutil.rmtree(folder.failures, ignore_errors=True)
    folder.logs.mkdir(exist_ok=True)
    environment = {**os.environ, "TORCH_CPP_LOG_LEVEL": "ERROR"}
    with open(folder.logs / "agent.log", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "motley.train.agent", str(folder.path), worker],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    return Job(folder, process)


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as cause:
        return str(cause)
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


def last_step(folder: RunFolder) -> int:
    """Updates done, by the run's events; 0 if it has none."""
    try:
        events = read_events(folder.events)
    except MotleyError:
        return 0
    last = 0
    for event in events:
        if event["event"] == "run_started":
            last = event["resumed_from"] or 0
        elif event["event"] == "step":
            last = event["step"]
    return last


def lost_chips(folder: RunFolder) -> set[str]:
    """Chips that this run has lost and that no cluster given since has brought back."""
    try:
        events = read_events(folder.events)
    except MotleyError:
        return set()
    lost: set[str] = set()
    for event in events:
        if event["event"] == "chip_lost":
            lost.add(event["chip"])
        lost -= set(event.get(CHIPS_BACK, ()))
    return lost
