"""Payloads under the group key of a federation: ChaCha20-Poly1305 with a nonce from the content.

The nonce is a keyed hash of the bytes, so the same bytes give the same ciphertext: an interrupted
upload can go on, and equal snapshots are stored once. Two different pieces share a nonce with a
probability below 2^-32 even after 2^32 pieces. It tells a reader without the key which pieces are
equal, and their sizes; nothing else. The construction is that of synthetic nonces (RFC 8452, 5297).
"""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from motley.errors import IdentityError, PayloadError

KEY_BYTES = 32
NONCE_BYTES = 12
OVERHEAD_BYTES = NONCE_BYTES + 16
"""By which a sealed piece is longer than what it holds: nonce and authentication tag."""


class GroupCipher:
    """Seals and opens pieces for the members of one federation."""

    def __init__(self, group_key: bytes) -> None:
        assert len(group_key) == KEY_BYTES
        self._cipher = ChaCha20Poly1305(_derived(group_key, b"motley-federation-1 cipher"))
        self._nonce_key = _derived(group_key, b"motley-federation-1 nonce")

    def seal(self, piece: bytes) -> bytes:
        """Nonce, ciphertext and tag: `OVERHEAD_BYTES` more than `piece`."""
        nonce = hmac.digest(self._nonce_key, piece, "sha256")[:NONCE_BYTES]
        return nonce + self._cipher.encrypt(nonce, piece, None)

    def open(self, sealed: bytes) -> bytes:
        """What `seal` was given; `PayloadError` if it was sealed with another key or changed."""
        try:
            return self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], None)
        except (InvalidTag, ValueError):
            raise PayloadError(
                "a payload cannot be decrypted.",
                reason="damaged",
                remedy="Check that this is the federation's group key.",
            ) from None


def _derived(group_key: bytes, purpose: bytes) -> bytes:
    return HKDF(hashes.SHA256(), KEY_BYTES, None, purpose).derive(group_key)


def save_group_key(path: Path) -> bytes:
    """A new group key, written to a file that only its owner can read."""
    key = secrets.token_bytes(KEY_BYTES)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(key.hex() + "\n")
    except OSError as cause:
        raise IdentityError(
            f"the group key cannot be written to {path}: {cause}.", remedy="Name another file."
        ) from None
    return key


def load_group_key(path: Path) -> bytes:
    """The key in a file; `IdentityError` if it is missing, damaged or open to others."""
    try:
        mode, text = path.stat().st_mode, path.read_text(encoding="ascii").strip()
        key = bytes.fromhex(text)
    except (OSError, ValueError) as cause:
        raise IdentityError(
            f"{path} holds no group key: {cause}.", remedy="Ask another member for the file."
        ) from None
    if len(key) != KEY_BYTES:
        raise IdentityError(f"{path} holds no group key: it is not {KEY_BYTES} bytes in hex.")
    if stat.S_IMODE(mode) & 0o077:
        raise IdentityError(f"{path} can be read by others.", remedy=f"chmod 600 {path}")
    return key
