"""The payloads of updates, fetched once and kept as long as a round may need them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from motley.errors import LogDamagedError, PayloadError
from motley.federation.charter.messages import Update
from motley.federation.log.chain import Accepted, Chain, SealedRound
from motley.federation.log.downloads import folder_of
from motley.federation.log.keyring import Keyring
from motley.federation.storage.bulk import read_bulk
from motley.federation.storage.reference import Bulk
from motley.federation.storage.store import Store

_Known = tuple[int, str, str | None, Bulk]
"""All that says what an update's payload is."""


class Payloads:
    """What was fetched, or the reason of the protocol why it cannot be had."""

    def __init__(self, store: Store, chain: Chain, keyring: Keyring, cache: Path | None) -> None:
        """`cache` is the folder of downloads."""
        self._store = store
        self._chain = chain
        self._keyring = keyring
        self._cache = cache
        self._found: dict[_Known, bytes | str] = {}

    def put(self, update: Update, payload: bytes) -> None:
        """Keeps one that need not be fetched: it was written here."""
        self._found[_known(update)] = payload

    def of(self, update: Update) -> bytes | str:
        """The payload, or the reason why it cannot be had; `IdentityError` if this party has not
        been given the group key in force."""
        if update.payload.epoch != self._chain.epoch_of(update.round):
            return "wrong_epoch"
        known = _known(update)
        if known not in self._found:
            try:
                self._found[known] = self._read(update)
            except PayloadError as refused:
                self._found[known] = refused.reason
        return self._found[known]

    def _read(self, update: Update) -> bytes:
        cipher = self._keyring.cipher_for(update)
        max_bytes = self._chain.charter.payload_bytes
        cache = folder_of(self._cache, update.round)
        return read_bulk(self._store, update.payload, cipher, max_bytes=max_bytes, cache=cache)

    def keep_only(self, needed: Iterable[Update]) -> None:
        """Drops the others, those that could not be had among them."""
        kept = {_known(update) for update in needed} & self._found.keys()
        self._found = {known: self._found[known] for known in kept}

    def counted(self, sealed: SealedRound) -> list[tuple[Accepted, bytes]]:
        """What counts in a sealed round, in canonical order, with the bytes of each.

        `LogDamagedError` if the store has lost one that the reviewers had.
        """
        found = []
        for each in sealed.accepted:
            payload = self.of(each.update)
            if isinstance(payload, str):
                self._found.pop(_known(each.update), None)
                raise LogDamagedError(
                    f"the update of '{each.update.party}' for round {each.update.round}, which "
                    f"counts in round {sealed.round}, is {payload} in the store.",
                    remedy="Restore the store, or wait for a snapshot of a later round.",
                )
            found.append((each, payload))
        return found


def _known(update: Update) -> _Known:
    return update.round, update.party, update.opening_key, update.payload
