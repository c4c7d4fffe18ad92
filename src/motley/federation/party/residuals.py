"""The error that a party feeds back, kept over its restarts.

An update's error belongs to that update: it is written before the update is announced, and counts
after a restart only if that very update stands in the log, decided or not, and began from the
federation's state. So an error is never fed back twice, nor that of an update that nobody has seen
or of a state that had diverged. Files are replaced whole; one that is damaged is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from motley.errors import PayloadError, StorageError
from motley.federation.keys.objects import digest_of
from motley.federation.state.tensors import pack, unpack
from motley.federation.storage.reference import Bulk

KEPT = 2
"""Files of a fragment: that of the newest update, and that of the one before, which counts if the
newest was never announced."""
_NAME = re.compile(r"(\d+)\.(\d+)\.([0-9a-f]{64})\.safetensors")


@dataclass(frozen=True, kw_only=True)
class _Kept:
    path: Path
    fragment: int
    round: int
    mark: str


def mark_of(bulk: Bulk) -> str:
    """What an update's bytes are known by, wherever they lie."""
    return digest_of(" ".join(chunk.digest for chunk in bulk.chunks).encode())


class Residuals:
    """The files of one party in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, fragment: int, round_: int, bulk: Bulk, residual: Mapping[str, Tensor]) -> None:
        """Writes what is fed back after an update of a round; `StorageError` if the disk does not
        take it, and then the files before it stay."""
        name = f"{fragment}.{round_}.{mark_of(bulk)}.safetensors"
        partial = self._folder / "residual.partial"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(pack(residual))
            partial.replace(self._folder / name)
            for old in self._of(fragment)[KEPT:]:
                old.path.unlink(missing_ok=True)
        except OSError as cause:
            with suppress(OSError):
                partial.unlink()
            raise StorageError(
                f"the error to feed back after round {round_} cannot be kept: {cause}.",
                remedy="Free space; without it a restart loses what that round left out.",
            ) from None

    def load(
        self, num_fragments: int, payload_of: Callable[[int], Bulk | None]
    ) -> dict[str, Tensor]:
        """By parameter name what is to be fed back; `payload_of` gives the bulk of this party's
        update for a round as it stands in the log, if it counts; asked for a file at a time."""
        found: dict[str, Tensor] = {}
        for fragment in range(num_fragments):
            for kept in self._of(fragment):
                bulk = payload_of(kept.round)
                if bulk is not None and mark_of(bulk) == kept.mark:
                    found |= _read(kept.path)
                    break
        return found

    def _of(self, fragment: int) -> list[_Kept]:
        """The files of a fragment, the newest round first."""
        matches = ((path, _NAME.fullmatch(path.name)) for path in self._folder.glob("*.*"))
        kept = [
            _Kept(path=path, fragment=int(match[1]), round=int(match[2]), mark=match[3])
            for path, match in matches
            if match is not None
        ]
        mine = (each for each in kept if each.fragment == fragment)
        return sorted(mine, key=lambda each: -each.round)


def _read(path: Path) -> dict[str, Tensor]:
    """Nothing, if the file is damaged."""
    try:
        return unpack(path.read_bytes())
    except (OSError, PayloadError):
        return {}
