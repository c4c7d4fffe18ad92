"""How control objects name bulk bytes: by the digests of the chunks that they are cut into."""

from __future__ import annotations

from dataclasses import dataclass

from motley.federation.keys.objects import check_digest
from motley.schema import require_positive


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A stored piece of a bulk object."""

    digest: str
    bytes: int
    copy: int = 0

    def __post_init__(self) -> None:
        require_positive(self, "bytes")
        check_digest("digest", self.digest)
        if not 0 <= self.copy < 64:
            raise ValueError(f"copy: must be from 0 to 63, found {self.copy}")


@dataclass(frozen=True, kw_only=True)
class Bulk:
    """Many bytes in the store: `bytes` of them before encryption."""

    bytes: int
    chunks: tuple[Chunk, ...]
    epoch: int | None = None
    """Of the group key that they are encrypted with; unset where nothing is."""

    def __post_init__(self) -> None:
        require_positive(self, "bytes")
        if not self.chunks:
            raise ValueError("chunks: there are none")
        if self.epoch is not None and self.epoch < 0:
            raise ValueError(f"epoch: must not be negative, found {self.epoch}")

    @property
    def stored_bytes(self) -> int:
        return sum(chunk.bytes for chunk in self.chunks)
