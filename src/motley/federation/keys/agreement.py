"""Texts that only one party can read: sealed for the key that it signs with.

An Ed25519 key is an X25519 key too. The birational map of RFC 7748 (4.1) takes the public point
over, and the secret number is the one that RFC 8032 (5.1.5) takes from the private key; libsodium
does the same (`crypto_sign_ed25519_pk_to_curve25519`), and Thormarker (IACR ePrint 2021/509) shows
that one key may serve both ends. So a party has one key file and one public key.
"""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from motley.errors import IdentityError

_PRIME = 2**255 - 19
_DOMAIN = b"motley-federation-1 handout "
_NONCE = bytes(12)
"""Each derived key seals one text only."""


class Sender:
    """One-time key with which some texts are sealed, each for one party."""

    def __init__(self) -> None:
        self._key = X25519PrivateKey.generate()
        self.public_key = self._key.public_key().public_bytes_raw().hex()
        """What each of the parties needs beside its own key: 64 hex digits."""

    def seal(self, text: bytes, public_key: str, place: bytes) -> bytes:
        """`text` for the holder of an Ed25519 key, at one place only; 16 bytes more than `text`.

        `IdentityError` for a public key that is no point of the curve of use.
        """
        try:
            shared = self._key.exchange(_to_x25519(public_key))
        except ValueError:
            raise IdentityError(
                f"nothing can be encrypted for the public key {public_key[:16]}...: it is none.",
                remedy="Ask the party for the line that 'motley federation keygen' printed.",
            ) from None
        return _cipher(shared, self.public_key, public_key, place).encrypt(_NONCE, text, None)


def open_sealed(
    sealed: bytes, private_bytes: bytes, public_key: str, sender: str, place: bytes
) -> bytes | None:
    """What a sender has sealed for the Ed25519 key of these private bytes; None if it is not."""
    secret = hashlib.sha512(private_bytes).digest()[:32]
    try:
        other = X25519PublicKey.from_public_bytes(bytes.fromhex(sender))
        shared = X25519PrivateKey.from_private_bytes(secret).exchange(other)
        return _cipher(shared, sender, public_key, place).decrypt(_NONCE, sealed, None)
    except (InvalidTag, ValueError):
        return None


def _to_x25519(public_key: str) -> X25519PublicKey:
    """u = (1 + y) / (1 - y) of the Ed25519 point with that y."""
    y = int.from_bytes(bytes.fromhex(public_key), "little") % 2**255
    u = (1 + y) * pow(1 - y, -1, _PRIME) % _PRIME
    return X25519PublicKey.from_public_bytes(u.to_bytes(32, "little"))


def _cipher(shared: bytes, sender: str, receiver: str, place: bytes) -> ChaCha20Poly1305:
    purpose = _DOMAIN + bytes.fromhex(sender) + bytes.fromhex(receiver) + place
    return ChaCha20Poly1305(HKDF(hashes.SHA256(), 32, None, purpose).derive(shared))
