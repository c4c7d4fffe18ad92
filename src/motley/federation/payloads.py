"""The payloads of updates, fetched once and kept as long as a round may need them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from motley.errors import LogDamagedError, PayloadError
from motley.federation.bulk import read_bulk
from motley.federation.chain import Accepted, Chain, SealedRound
from motley.federation.charter import Bulk
from motley.federation.keyring import Keyring
from motley.federation.messages import Update
from motley.federation.store import Store


class Payloads:
    """What was fetched, or the reason of the protocol why it cannot be had."""

    def __init__(self, store: Store, chain: Chain, keyring: Keyring, cache: Path | None) -> None:
        """`cache` is a folder for chunks, so that a broken download goes on."""
        self._store = store
        self._chain = chain
        self._keyring = keyring
        self._cache = cache
        self._found: dict[Bulk, bytes | str] = {}

    def put(self, bulk: Bulk, payload: bytes) -> None:
        """Keeps one that need not be fetched: it was written here."""
        self._found[bulk] = payload

    def of(self, update: Update) -> bytes | str:
        """The payload, or the reason why it cannot be had; `IdentityError` if this party has not
        been given the group key in force."""
        bulk = update.payload
        if bulk.epoch != self._chain.epoch_of(update.round):
            return "wrong_epoch"
        if bulk not in self._found:
            try:
                self._found[bulk] = self._read(bulk)
            except PayloadError as refused:
                self._found[bulk] = refused.reason
        return self._found[bulk]

    def _read(self, bulk: Bulk) -> bytes:
        cipher = self._keyring.cipher(bulk.epoch)
        max_bytes = self._chain.charter.payload_bytes
        return read_bulk(self._store, bulk, cipher, max_bytes=max_bytes, cache=self._cache)

    def keep_only(self, needed: Collection[Bulk]) -> None:
        """Drops the others, those that could not be had among them."""
        self._found = {bulk: self._found[bulk] for bulk in needed if bulk in self._found}

    def counted(self, sealed: SealedRound) -> list[tuple[Accepted, bytes]]:
        """What counts in a sealed round, in canonical order, with the bytes of each.

        `LogDamagedError` if the store has lost one that the reviewers had.
        """
        found = []
        for each in sealed.accepted:
            payload = self.of(each.update)
            if isinstance(payload, str):
                self._found.pop(each.update.payload)
                raise LogDamagedError(
                    f"the update of '{each.update.party}' for round {each.update.round}, which "
                    f"counts in round {sealed.round}, is {payload} in the store.",
                    remedy="Restore the store, or wait for a snapshot of a later round.",
                )
            found.append((each, payload))
        return found
