"""Payloads under the group key of a federation: ChaCha20-Poly1305 with a nonce from the content.

The nonce is a keyed hash of the bytes, so the same bytes give the same ciphertext: an interrupted
upload can go on, and equal snapshots are stored once. Two different pieces share a nonce with a
probability below 2^-32 even after 2^32 pieces. It tells a reader without the key which pieces are
equal, and their sizes; nothing else. The construction is that of synthetic nonces (RFC 8452, 5297).
"""

from __future__ import annotations

import hmac
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from motley.errors import PayloadError

KEY_BYTES = 32
NONCE_BYTES = 12
OVERHEAD_BYTES = NONCE_BYTES + 16
"""By which a sealed piece is longer than what it holds: nonce and authentication tag."""


class GroupCipher:
    """Seals and opens pieces for the members of one federation, in one epoch of its group key; of
    none where only the updates' own keys hide them."""

    def __init__(self, group_key: bytes, epoch: int | None = 0) -> None:
        assert len(group_key) == KEY_BYTES
        self.epoch = epoch
        self._cipher = ChaCha20Poly1305(derived(group_key, b"motley-federation-1 cipher"))
        self._nonce_key = derived(group_key, b"motley-federation-1 nonce")

    def seal(self, piece: bytes) -> bytes:
        """Nonce, ciphertext and tag: `OVERHEAD_BYTES` more than `piece`."""
        nonce = hmac.digest(self._nonce_key, piece, "sha256")[:NONCE_BYTES]
        return nonce + self._cipher.encrypt(nonce, piece, None)

    def open(self, sealed: bytes) -> bytes:
        """What `seal` was given; `PayloadError` if it was sealed with another key or changed."""
        try:
            return self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], None)
        except (InvalidTag, ValueError):
            where = "" if self.epoch is None else f" under the group key of epoch {self.epoch}"
            raise PayloadError(f"a payload cannot be decrypted{where}.", reason="damaged") from None


def new_group_key() -> bytes:
    """For a new epoch; random."""
    return secrets.token_bytes(KEY_BYTES)


def update_cipher(
    opening_key: str, party: str, round_: int, group_key: bytes, epoch: int | None
) -> GroupCipher:
    """For the chunks of one update: who has not its manifest cannot open them, and in the manifest
    of another party they open nothing. `group_key` is empty where nothing else is encrypted."""
    purpose = f"motley-federation-1 update {party} {round_}".encode()
    return GroupCipher(derived(group_key + bytes.fromhex(opening_key), purpose), epoch)


def derived(key: bytes, purpose: bytes) -> bytes:
    """Another key of 32 bytes, for that purpose alone."""
    return HKDF(hashes.SHA256(), KEY_BYTES, None, purpose).derive(key)
