"""A store behind an emulated link: every call takes what the declared bandwidth and latency give.

Uploads and downloads have a direction each, in which transfers follow each other, however many
threads make them. Figures made with it are emulated.
"""

from __future__ import annotations

import threading
import time

from motley.chips.chip import Link
from motley.federation.storage.store import Entry, Store, Traffic

CALL_BYTES = 500
"""What the headers of one HTTP request and answer take, about."""


ENTRY_BYTES = 200
"""What a listing says of one object beside its key, about (S3's XML)."""


class _Direction:
    """One direction of a link: when the next transfer can begin."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._free = 0.0
        self._lock = threading.Lock()

    def carry(self, num_bytes: int) -> None:
        """Returns when `num_bytes` that start now have arrived."""
        with self._lock:
            start = max(time.monotonic(), self._free)
            self._free = start + num_bytes / self._link.bandwidth_bytes_per_s
            arrived = self._free + self._link.latency_s
        time.sleep(max(0.0, arrived - time.monotonic()))


class ShapedStore:
    """`store`, seen over `link`, which has the same bandwidth in each direction."""

    def __init__(self, store: Store, link: Link) -> None:
        self._store = store
        self._up = _Direction(link)
        self._down = _Direction(link)

    @property
    def traffic(self) -> Traffic:
        return self._store.traffic

    def put_new(self, key: str, data: bytes) -> bool:
        self._up.carry(len(data) + CALL_BYTES)
        is_new = self._store.put_new(key, data)
        self._down.carry(CALL_BYTES)
        return is_new

    def get(self, key: str, max_bytes: int) -> bytes | None:
        self._up.carry(CALL_BYTES)
        data = self._store.get(key, max_bytes)
        self._down.carry(len(data or b"") + CALL_BYTES)
        return data

    def size(self, key: str) -> int | None:
        self._up.carry(CALL_BYTES)
        num_bytes = self._store.size(key)
        self._down.carry(CALL_BYTES)
        return num_bytes

    def list(self, prefix: str, after: str = "") -> list[Entry]:
        self._up.carry(CALL_BYTES)
        entries = self._store.list(prefix, after)
        self._down.carry(CALL_BYTES + sum(len(each.key) + ENTRY_BYTES for each in entries))
        return entries
