"""Where the verbs' words go: data to standard output, messages to standard error."""

from __future__ import annotations

import errno
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

from motley.errors import not_written


def print_json(data: Any) -> None:
    """One JSON document on standard output."""
    json.dump(data, sys.stdout, indent=2)
    sys.stdout.write("\n")


def require_writable(*paths: Path | None) -> None:
    """Before long work whose result goes there: `StorageError` if one of the named files lies in
    no folder, in one that may not be written to, or is itself a folder."""
    for path in paths:
        if path is None:
            continue
        if path.is_dir():
            number = errno.EISDIR
        elif not path.parent.is_dir():
            number = errno.ENOENT
        elif not os.access(path if path.exists() else path.parent, os.W_OK):
            number = errno.EACCES
        else:
            continue
        raise not_written(path, OSError(number, os.strerror(number)))


def write_text(path: Path, text: str) -> None:
    """The user's file; `StorageError` if it cannot be written."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as cause:
        raise not_written(path, cause) from None


def keep_old(path: Path) -> None:
    """Renames what is there to the first free `PATH.bak`, `PATH.bak2` ..., and says so: a person
    may have edited it."""
    if not path.is_file():
        return
    numbers = itertools.chain([""], itertools.count(2))
    kept = next(p for n in numbers if not (p := path.with_name(f"{path.name}.bak{n}")).exists())
    try:
        path.rename(kept)
    except OSError as cause:
        raise not_written(kept, cause) from None
    say(f"{path} was there; it is {kept} now.")


def say(text: str) -> None:
    """A message for the person, on standard error, so that --json output stays clean."""
    print(text, file=sys.stderr, flush=True)
