"""What ends a run from outside: Ctrl-C, SIGTERM, and a terminal that is closed."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from motley.cli.output import say
from motley.train.launch import Job


@contextmanager
def stopping(job: Job) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) asks for a clean stop, the second ends the run at once.

    A terminal that is closed (SIGHUP) asks for a clean stop too, and what would have been written
    there goes nowhere; under nohup, which has SIGHUP ignored, the run goes on.
    """
    asked = 0
    terminals = [stream.fileno() for stream in (sys.stdout, sys.stderr) if stream.isatty()]

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            job.request_stop()
            say("\nStopping after this step and saving. Once more ends the run at once.")
        else:
            job.kill()

    def hang_up(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = max(asked, 1)
        _silence(terminals)
        job.request_stop()

    handlers = {signal.SIGINT: handle, signal.SIGTERM: handle, signal.SIGHUP: hang_up}
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        del handlers[signal.SIGHUP]
    before = {number: signal.signal(number, each) for number, each in handlers.items()}
    try:
        yield
    except OSError as cause:
        is_gone = any(not os.isatty(terminal) for terminal in terminals)
        if cause.errno != errno.EIO or not is_gone:
            raise
        _silence(terminals)  # written to a terminal that is gone, before its signal was handled
        job.request_stop()
        job.process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if job.is_running:
            job.kill()


def _silence(terminals: list[int]) -> None:
    """Nobody reads there any more, and whatever is written would fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for terminal in terminals:
        os.dup2(nowhere, terminal)
    os.close(nowhere)
