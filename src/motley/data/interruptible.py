"""Ctrl-C during a call into a library that does not look for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

LOOK_S = 0.2


def fed(call: Callable[[Iterator[T]], object], items: Iterable[T]) -> None:
    """`call` with the items, in a thread of its own: `KeyboardInterrupt` ends the waiting at once,
    gives the call no more items, and leaves what it does with those it has to the process's end.
    What it raises is raised here."""
    is_stopped = threading.Event()
    failures: list[BaseException] = []

    def until_stopped() -> Iterator[T]:
        for item in items:
            if is_stopped.is_set():
                return
            yield item

    def run() -> None:
        try:
            call(until_stopped())
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run, name="interruptible", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(LOOK_S)
    except BaseException:
        is_stopped.set()
        raise
    if failures:
        raise failures[0]
