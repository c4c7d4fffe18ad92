"""Stores states for those who join, beside the correspondence: a large one takes minutes to send,
in which updates, reviews and seals must not wait. One transfer at a time leaves them the link."""

from __future__ import annotations

import threading

from motley.errors import StoreUnreachableError
from motley.federation.party.rounds import Member
from motley.federation.party.snapshots import announce_snapshot, wants_snapshot
from motley.federation.state.state import GlobalState
from motley.federation.storage.bulk import write_bulk
from motley.federation.storage.reference import Bulk


class SnapshotKeeper:
    """Sends the states of one member, one after the other. Its calls return soon, and are all made
    by one thread."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._round = 0
        self._digest = ""
        self._data: bytes | None = None
        """What is on its way."""
        self._thread: threading.Thread | None = None
        self._result: Bulk | BaseException | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a state is on its way."""
        return self._data is not None

    def begin(self, state: GlobalState) -> None:
        """Begins to send the state before the next round, if this member is to store it."""
        if self.is_busy or not wants_snapshot(self._member):
            return
        self._round, self._digest = self._member.next_round, state.digest()
        self._data = state.pack()
        self._send()

    def go_on(self) -> None:
        """Names the state in the log when it has arrived; sends it again if the store was out of
        reach, from where it was."""
        if self._thread is None or self._thread.is_alive():
            return
        result = self._result
        if isinstance(result, StoreUnreachableError):
            self._send()
        elif isinstance(result, BaseException):
            raise result
        elif result is not None:
            announce_snapshot(self._member, self._round, self._digest, result)
            self._data = self._thread = self._result = None

    def _send(self) -> None:
        data, cipher = self._data, self._member.cipher_of(self._round)
        assert data is not None

        def work() -> None:
            try:
                self._result = write_bulk(self._member.store, data, cipher, at_once=1)
            except BaseException as failure:
                self._result = failure

        self._thread = threading.Thread(target=work, name="snapshot", daemon=True)
        self._thread.start()
