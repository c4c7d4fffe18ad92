"""The run's record: `events.jsonl`, one JSON object a line, the truth that every report is made of.

A line is written by one system call on a file opened for appending, so a reader never sees two
lines mixed, and a crash leaves at most one half-written last line. Readers pass over that line;
a writer that opens the file again cuts it off.

    log = EventLog.open(run_folder / "events.jsonl")
    log.write("step", step=1, loss=8.31)
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from motley.errors import RunFolderError, StorageError

EVENTS_FILE = "events.jsonl"

Event = dict[str, Any]
"""{"event": name, "time": unix seconds, ...}; a number that is not finite is null in the file."""

_REMEDY = "Name the folder of a run that 'motley train' has made."


class EventLog:
    """Appends events to a file; make it with `EventLog.open`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def open(cls, path: Path) -> EventLog:
        """The log at `path`, which may exist; its folder must. `StorageError` if not writable."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            with _alone(descriptor):
                _cut_half_line(descriptor)
        except OSError as cause:
            raise _not_writable(path, cause) from None
        return cls(path, descriptor)

    def write(self, event: str, **fields: Any) -> None:
        """Append one event with the time of now; `StorageError` if the disk does not take it."""
        record = {"event": event, "time": time.time(), **fields}
        text = json.dumps(_strict(record), ensure_ascii=False, allow_nan=False)
        line = text.encode("utf-8", errors="replace") + b"\n"
        try:
            with _alone(self._descriptor):
                written = os.write(self._descriptor, line)
                if written != len(line):
                    _cut_half_line(self._descriptor)
                    raise OSError("the disk is full")
        except OSError as cause:
            raise _not_writable(self.path, cause) from None

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class EventTail:
    """Reads a log as it grows: each `read` gives the whole lines since the last one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._line = 0

    def read(self) -> list[Event]:
        """The new events; none while the file is missing. `RunFolderError` on a foreign line."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        except OSError as cause:
            raise RunFolderError(f"{self.path}: cannot be read: {cause}.") from None
        whole, newline, _ = data.rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        events = []
        for line in whole.split(b"\n") if newline else ():
            self._line += 1
            if line.strip():
                events.append(_parse(line, self.path, self._line))
        return events


def read_events(path: Path) -> list[Event]:
    """All whole events of a log; `RunFolderError` if it is missing, empty or not a run's log."""
    if not path.is_file():
        raise RunFolderError(f"{path}: no such file, so there is no run here.", remedy=_REMEDY)
    events = EventTail(path).read()
    if not events:
        raise RunFolderError(
            f"{path}: holds no event yet.", remedy="Wait until the run has started, or start it."
        )
    return events


def _parse(line: bytes, path: Path, number: int) -> Event:
    try:
        record = json.loads(line.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as cause:
        raise RunFolderError(f"{path}, line {number}: not JSON: {cause}.", remedy=_REMEDY) from None
    if not isinstance(record, dict) or not isinstance(record.get("event"), str):
        raise RunFolderError(f"{path}, line {number}: not an event of a run.", remedy=_REMEDY)
    return record


def _strict(value: Any) -> Any:
    """`value` with null in place of NaN and infinities, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return value


@contextlib.contextmanager
def _alone(descriptor: int) -> Iterator[None]:
    """Keeps other writers out, so that none cuts a line that another is just writing.

    Where the file system has no locks, a line is still written by one call.
    """
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)


def _cut_half_line(descriptor: int) -> None:
    """Remove what follows the last newline: a line that its writer did not live to finish."""
    end = os.fstat(descriptor).st_size
    keep = end
    while keep > 0:
        start = max(0, keep - 65536)
        newline = os.pread(descriptor, keep - start, start).rfind(b"\n")
        if newline >= 0:
            keep = start + newline + 1
            break
        keep = start
    if keep < end:
        os.ftruncate(descriptor, keep)


def _not_writable(path: Path, cause: OSError) -> StorageError:
    reason = cause.strerror or str(cause)
    return StorageError(
        f"{path}: cannot be written: {reason}.", remedy="Free some space or choose another folder."
    )
