"""The event log: whole lines only, through crashes, full disks and foreign files."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from motley.errors import RunFolderError, StorageError
from motley.events import EventLog, EventTail, read_events


def test_what_is_written_is_read_back_with_a_time(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog.open(path) as log:
        log.write("message", text="first\nsecond ✓")
        log.write("step", step=1, loss=2.5, chips=[{"name": "a"}])
    first, second = read_events(path)
    assert first["text"] == "first\nsecond ✓"
    assert second["chips"] == [{"name": "a"}]
    assert second["time"] >= first["time"] > 1.6e9
    assert len(path.read_text(encoding="utf-8").splitlines()) == 2


def test_numbers_that_are_not_finite_become_null_which_is_json(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog.open(path) as log:
        log.write("step", loss=float("nan"), chips=[{"wait_s": float("inf")}])

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    record = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert record["loss"] is None
    assert record["chips"] == [{"wait_s": None}]


def test_a_half_written_last_line_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"event":"message","time":1,"text":"whole"}\n{"event":"step","ti')
    assert [event["event"] for event in read_events(path)] == ["message"]


def test_opening_again_cuts_the_half_line_so_that_no_line_is_glued_to_it(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    long = "x" * 200_000
    path.write_text('{"event":"message","time":1,"text":"whole"}\n{"event":"step","te' + long)
    with EventLog.open(path) as log:
        log.write("message", text="after")
    assert [event["text"] for event in read_events(path)] == ["whole", "after"]


def test_a_file_that_is_only_a_half_line_is_cut_to_nothing(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"event":')
    EventLog.open(path).close()
    assert path.read_bytes() == b""


def test_two_writers_append(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog.open(path) as one, EventLog.open(path) as other:
        for index in range(20):
            (one if index % 2 else other).write("message", text=str(index))
    assert [event["text"] for event in read_events(path)] == [str(index) for index in range(20)]


def test_opening_does_not_cut_a_line_that_another_process_is_writing(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    long = "x" * 2_000_000

    def write() -> None:
        with EventLog.open(path) as log:
            for _ in range(10):
                log.write("message", text=long)

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        EventLog.open(path).close()
    writer.join()
    assert len(read_events(path)) == 10


def test_a_tail_gives_each_event_once_and_waits_for_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = EventTail(path)
    assert tail.read() == []
    line = b'{"event":"message","time":1}\n'
    path.write_bytes(line + line[:9])
    assert len(tail.read()) == 1
    assert tail.read() == []
    path.write_bytes(line + line + line)
    assert len(tail.read()) == 2
    assert tail.read() == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"event":"message","time":1}\nhello\n', "line 2: not JSON"),
        (b"[1, 2]\n", "line 1: not an event"),
        (b'{"loss": 3}\n', "line 1: not an event"),
        (b"\x89PNG\r\n\x1a\n", "line 1: not JSON"),
        (b"", "no event yet"),
        (b'{"event":"mess', "no event yet"),
    ],
)
def test_a_foreign_file_is_named_with_its_line(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(content)
    with pytest.raises(RunFolderError, match=expected):
        read_events(path)


def test_a_missing_file_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no such file"):
        read_events(tmp_path / "events.jsonl")


def test_a_log_that_cannot_be_opened_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written"):
        EventLog.open(tmp_path / "missing" / "events.jsonl")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_is_a_storage_error() -> None:
    log = EventLog(Path("/dev/full"), os.open("/dev/full", os.O_WRONLY))
    with log, pytest.raises(StorageError, match="No space left"):
        log.write("message", text="lost")


def test_closing_twice_is_fine(tmp_path: Path) -> None:
    log = EventLog.open(tmp_path / "events.jsonl")
    log.close()
    log.close()
