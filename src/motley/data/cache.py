"""Folders of the cache: built under a temporary name, renamed when whole, so that a process that is
stopped or killed leaves nothing half-written behind."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from motley.errors import StorageError

_TEMPORARY = ".partial-"
_ABANDONED_S = 24 * 3600
"""Age at which a temporary folder is taken to be left over from a process that was killed."""


@contextmanager
def temporary_folder(cache: Path, what: str) -> Iterator[Path]:
    """A new folder in `cache`, gone afterwards unless renamed; `StorageError` if `what` cannot be
    written there."""
    folder = cache / f"{_TEMPORARY}{secrets.token_hex(8)}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(cache)
        folder.mkdir()
        yield folder
    except OSError as cause:
        raise StorageError(
            f"{cache}: {what} cannot be written: {cause.strerror or cause}.",
            remedy="Free some disk space, or name a cache folder on another disk.",
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(cache: Path) -> None:
    for folder in cache.glob(f"{_TEMPORARY}*"):
        try:
            is_abandoned = time.time() - folder.stat().st_mtime > _ABANDONED_S
        except FileNotFoundError:
            continue
        if is_abandoned:
            shutil.rmtree(folder, ignore_errors=True)
