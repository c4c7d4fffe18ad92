"""The append-only log: where objects lie, and how they are read and written past what is void.

An object that exists once is looked for in slots: the first slot whose object is valid counts, and
a writer takes the first slot behind void ones by put-if-absent. What is void (garbage, truncated,
forged, replayed, oversized) is remembered as refused, and nothing else happens.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from motley.errors import LogDamagedError, VoidObjectError
from motley.federation.keys.objects import LARGEST_BYTES
from motley.federation.storage.store import Store

T = TypeVar("T")

MOST_SLOTS = 64
MOST_REFUSALS = 1000
LONGEST_REASON = 200

CHARTER = "charter.json"
AMENDMENTS = "amendments"
ROUNDS = "rounds"
SEALS = "seals"
SESSIONS = "sessions"
SNAPSHOTS = "snapshots"

_KEY = re.compile(r"(?P<stem>[a-z0-9/-]+)\.(?P<slot>0|[1-9][0-9]?)\.json")


def round_folder(round_: int) -> str:
    return f"{ROUNDS}/{round_:08d}"


def update_stem(round_: int, party: str) -> str:
    return f"{round_folder(round_)}/updates/{party}"


def review_stem(round_: int, party: str) -> str:
    return f"{round_folder(round_)}/reviews/{party}"


def seal_stem(round_: int) -> str:
    return f"{SEALS}/{round_:08d}"


def amendment_stem(number: int) -> str:
    return f"{AMENDMENTS}/{number:08d}"


def snapshot_stem(round_: int) -> str:
    return f"{SNAPSHOTS}/{round_:08d}"


def session_stem(party: str, number: int) -> str:
    return f"{SESSIONS}/{party}/{number:08d}"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """An object of the log that was refused, and why."""

    key: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Found(Generic[T]):
    """The object that counts, or None with the slot in which it can be written."""

    value: T | None
    slot: int


class Log:
    """Reads and writes control objects. Valid and void objects alike are fetched once."""

    def __init__(self, store: Store, report: Callable[[Refusal], None] | None = None) -> None:
        self.store = store
        self.refused: deque[Refusal] = deque(maxlen=MOST_REFUSALS)
        self.num_refused = 0
        self._report = report
        self._bytes: dict[str, bytes] = {}
        self._read: dict[str, Any] = {}
        self._seen: dict[str, tuple[int, float]] = {}
        self._num_listings = 0
        self._reported: set[str] = set()

    def slots(self, folder: str, after: str = "") -> dict[str, set[int]]:
        """Stem to the slots that are taken, of all keys in a folder that are of the log's form;
        with `after`, only of stems from there on."""
        found: dict[str, set[int]] = {}
        self._num_listings += 1
        for key, modified_s in self.store.list(folder, after):
            match = _KEY.fullmatch(key)
            if match is not None and int(match["slot"]) < MOST_SLOTS:
                found.setdefault(match["stem"], set()).add(int(match["slot"]))
                self._seen.setdefault(key, (self._num_listings, modified_s))
            else:
                self.refuse(key, "no place of the log")
        return found

    def first(
        self, stem: str, kind: str, slots: Collection[int], read: Callable[[bytes], T]
    ) -> Found[T]:
        """The first valid object of a stem; `read` raises `VoidObjectError` for one that is not."""
        for slot in range(MOST_SLOTS):
            if slot not in slots:
                return Found(value=None, slot=slot)
            value = self.read(f"{stem}.{slot}.json", kind, read)
            if value is not None:
                return Found(value=value, slot=slot)
        raise LogDamagedError(
            f"all {MOST_SLOTS} slots of {stem} hold void objects.",
            remedy="Somebody with access to the store fills it; take away that access.",
        )

    def latest(
        self, stem: str, kind: str, slots: Collection[int], read: Callable[[bytes], T]
    ) -> Found[T]:
        """The valid object in the highest slot, and the slot behind all that are taken."""
        behind = max(slots, default=-1) + 1
        for slot in sorted(slots, reverse=True):
            value = self.read(f"{stem}.{slot}.json", kind, read)
            if value is not None:
                return Found(value=value, slot=behind)
        return Found(value=None, slot=behind)

    def read(self, key: str, kind: str, read: Callable[[bytes], T]) -> T | None:
        """What `read` makes of the object at `key`, done once; None if it is void or not there."""
        if key in self._read:
            value: T | None = self._read[key]
            return value
        data = self._fetch(key, kind)
        if data is None:
            return None
        try:
            self._read[key] = read(data)
        except VoidObjectError as reason:
            self._read[key] = None
            self.refuse(key, reason.message)
        return self.read(key, kind, read)

    def _fetch(self, key: str, kind: str) -> bytes | None:
        if key in self._bytes:
            return self._bytes[key]
        try:
            data = self.store.get(key, LARGEST_BYTES[kind])
        except VoidObjectError:
            data = b""  # too large; not JSON either way
        if data is not None:
            self._bytes[key] = data
        return data

    def claim(
        self, stem: str, kind: str, data: bytes, read: Callable[[bytes], T], first_slot: int = 0
    ) -> tuple[T, bool]:
        """Writes an object that exists once; what counts now, and whether it is `data`.

        After a crash or a lost answer it can be repeated: equal bytes count as one's own.
        `VoidObjectError`, and nothing is written, if `data` itself is not valid there.
        """
        read(data)
        assert len(data) <= LARGEST_BYTES[kind]
        for slot in range(first_slot, MOST_SLOTS):
            key = f"{stem}.{slot}.json"
            if self.store.put_new(key, data):
                self._bytes[key] = data
            value = self.read(key, kind, read)
            if value is not None:
                return value, self._bytes[key] == data
        raise LogDamagedError(
            f"all {MOST_SLOTS} slots of {stem} hold void objects.",
            remedy="Somebody with access to the store fills it; take away that access.",
        )

    def bytes_of(self, key: str) -> bytes | None:
        """The bytes of an object that was read."""
        return self._bytes.get(key)

    def arrival(self, key: str) -> tuple[int, float]:
        """By what to order objects that came one after the other: the listing in which the object
        was first seen here, then the store's own time."""
        return self._seen.get(key, (self._num_listings, math.inf))

    def forget(self, folder: str) -> None:
        """Drops what is kept of a folder that is not needed any more."""
        kept: dict[str, Any]
        for kept in (self._bytes, self._read, self._seen):
            for key in [key for key in kept if key.startswith(folder)]:
                del kept[key]

    def refuse(self, key: str, reason: str) -> None:
        """Notes an object as refused, once."""
        if key in self._reported:
            return
        if len(self._reported) >= 100 * MOST_REFUSALS:
            self._reported.clear()
        self._reported.add(key)
        refusal = Refusal(key=key[:LONGEST_REASON], reason=reason[:LONGEST_REASON])
        self.refused.append(refusal)
        self.num_refused += 1
        if self._report is not None:
            self._report(refusal)
