"""Folders of the cache: built under a temporary name, renamed when whole, so that a process that is
stopped or killed leaves nothing half-written behind.

The builder of a folder holds a lock on it. A killed one's is free, and the next process that builds
something removes what it left.
"""

from __future__ import annotations

import fcntl
import math
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from motley.errors import StorageError

_TEMPORARY = ".partial-"
_NEW_S = 60
"""Age below which a folder may be one whose builder is about to lock it."""
_ABANDONED_S = 24 * 3600
"""Age at which a folder is taken to be left over where the file system has no locks."""


@contextmanager
def temporary_folder(cache: Path, what: str) -> Iterator[Path]:
    """A new folder in `cache`, gone afterwards unless renamed; `StorageError` if `what` cannot be
    written there."""
    folder = cache / f"{_TEMPORARY}{secrets.token_hex(8)}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(cache)
        folder.mkdir()
        with _opened(folder) as descriptor:
            _lock(descriptor)
            yield folder
    except OSError as cause:
        raise StorageError(
            f"{cache}: {what} cannot be written: {cause.strerror or cause}.",
            remedy="Free some disk space, or name a cache folder on another disk.",
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> Literal["ours", "another's", "none"]:
    """Whose the lock of an open folder is now. Ours goes with the descriptor, or with the process,
    however that ends; some network file systems have none for folders."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "another's"
    except OSError:
        return "none"
    return "ours"


def _remove_abandoned(cache: Path) -> None:
    least_age_s = {"ours": _NEW_S, "another's": math.inf, "none": _ABANDONED_S}
    for folder in cache.glob(f"{_TEMPORARY}*"):
        try:
            age_s = time.time() - folder.stat().st_mtime
            with _opened(folder) as descriptor:
                if age_s > least_age_s[_lock(descriptor)]:
                    shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # gone meanwhile, or another user's
            continue
