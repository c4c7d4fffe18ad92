"""Ctrl-C while a library computes that never looks for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from motley.data.interruptible import fed

BUSY = """
import os, signal, threading
from motley.data.tokenizer import train_tokenizer

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it

def texts():
    yield "one text and one more text"
    assert threading.current_thread() is not threading.main_thread()
    os.kill(os.getpid(), signal.SIGINT)
    yield from ("a text that never ends" for _ in iter(int, 1))

try:
    train_tokenizer(texts(), 300)
except KeyboardInterrupt:
    print("stopped", flush=True)
    os._exit(0)
"""


def test_ctrl_c_ends_the_training_of_a_tokenizer() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BUSY], capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("stopped\n", "", 0)


def test_all_items_are_given_in_order() -> None:
    got: list[int] = []
    fed(got.extend, range(1000))
    assert got == list(range(1000))


def test_what_fails_inside_is_raised_outside() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        fed(list, broken())
