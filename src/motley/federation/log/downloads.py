"""Where a party keeps the chunks that it has fetched: a folder for each round, with the updates
made for it and the state before it. So a broken download goes on, and a process that comes back
replays the log without fetching it again. What neither can ask for any more is deleted.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from motley.federation.log.view import View


def folder_of(downloads: Path | None, round_: int) -> Path | None:
    """For what is fetched of a round, if it is to be kept."""
    return downloads / f"{round_:08d}" if downloads else None


def prune(view: View, downloads: Path, taken_in: int) -> None:
    """Deletes what is not needed any more by a party that has taken in so many rounds, and what an
    earlier process has left half."""
    oldest = _oldest_needed(view, taken_in)
    for path in downloads.glob("*"):
        if not (path.is_dir() and path.name.isdecimal()):
            with suppress(OSError):
                path.unlink()
        elif int(path.name) < oldest:
            shutil.rmtree(path, ignore_errors=True)
    for partial in downloads.glob("*/*.partial"):
        with suppress(OSError):
            partial.unlink()


def _oldest_needed(view: View, taken_in: int) -> int:
    """The first round that this party may yet apply is the next one or, if it comes back, that
    behind the newest stored state; late updates may count there."""
    stored = view.snapshots()
    first = min(taken_in, stored[0].round if stored else 0)
    terms = view.chain.charter.terms.round
    return first - terms.staleness * terms.fragments
