"""The group keys that one party has: those handed out to it, and through them the earlier ones."""

from __future__ import annotations

from collections.abc import Sequence

from motley.errors import IdentityError, PayloadError
from motley.federation.charter.messages import Update
from motley.federation.keys.encrypt import GroupCipher, update_cipher
from motley.federation.keys.handout import Handout, check_of
from motley.federation.keys.identity import Identity


class Keyring:
    """Keys by epoch. A reader without an identity has none, which is enough where nothing is
    encrypted."""

    def __init__(self, federation: str, identity: Identity | None) -> None:
        self._federation = federation
        self._identity = identity
        self._is_encrypted = False
        self._keys: dict[int, bytes] = {}
        self._ciphers: dict[int, GroupCipher] = {}
        self._read: set[str] = set()

    def learn(self, handouts: Sequence[Handout]) -> None:
        """Takes what the charter and the amendments hand out, in their order; again with more."""
        self._is_encrypted = bool(handouts)
        for handout in handouts:
            if handout.sender not in self._read:
                self._read.add(handout.sender)
                self._take(handout)
        checks = {handout.epoch: handout.check for handout in handouts}
        for handout in reversed(handouts):
            key, epoch = self._keys.get(handout.epoch), handout.epoch - 1
            if key is not None and handout.previous is not None and epoch not in self._keys:
                before = handout.key_before(key)
                if before is not None and check_of(before) == checks.get(epoch):
                    self._keys[epoch] = before

    def _take(self, handout: Handout) -> None:
        if self._identity is None:
            return
        key = handout.key_of(self._identity, self._federation)
        if key is not None:
            self._keys.setdefault(handout.epoch, key)

    def key(self, epoch: int) -> bytes:
        """The group key of an epoch; `IdentityError` if this party has not been given it."""
        if epoch in self._keys:
            return self._keys[epoch]
        if self._identity is None:
            raise IdentityError(
                "the payloads of this federation are encrypted; only its members can replay them.",
                remedy="Give a member's key file: --key FILE.",
            )
        newest = max(self._keys, default=None)
        has = "none" if newest is None else f"that of epoch {newest}"
        raise IdentityError(
            f"'{self._identity.party}' has not been given the group key of epoch {epoch}; it has "
            f"{has}.",
            remedy="Unless it was removed, ask who may amend for: motley federation rotate STORE",
        )

    def cipher(self, epoch: int | None) -> GroupCipher | None:
        """For what is encrypted in an epoch; None for what is not, where nothing is.

        `IdentityError` as `key`; `PayloadError` if this is not how the federation encrypts.
        """
        if (epoch is not None) != self._is_encrypted:
            said = "is not encrypted" if epoch is None else "claims to be encrypted"
            raise PayloadError(f"a bulk object {said}.", reason="damaged")
        if epoch is None:
            return None
        if epoch not in self._ciphers:
            self._ciphers[epoch] = GroupCipher(self.key(epoch), epoch)
        return self._ciphers[epoch]

    def cipher_for(self, update: Update) -> GroupCipher | None:
        """For the chunks of an update; errors as `cipher`."""
        epoch = update.payload.epoch
        return self.cipher_of(update.party, update.round, update.opening_key, epoch)

    def cipher_of(
        self, party: str, round_: int, opening_key: str | None, epoch: int | None
    ) -> GroupCipher | None:
        """For the chunks of a party's update; errors as `cipher`."""
        cipher = self.cipher(epoch)
        if opening_key is None:
            return cipher
        group_key = b"" if epoch is None else self.key(epoch)
        return update_cipher(opening_key, party, round_, group_key, epoch)
