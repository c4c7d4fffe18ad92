"""Who a party is: a name and an Ed25519 key pair.

The private key lies in a file that only its owner can read. While a process acts for a party it
holds a lock on that file, so that a second process on the same machine is refused at once; the
lock ends with the process, however it ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from motley.errors import IdentityError
from motley.federation.keys.agreement import open_sealed
from motley.federation.keys.encrypt import derived
from motley.federation.keys.objects import Signed, signed_bytes

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
KEY_FORMAT = "motley-key-1"
KEY_FILE = "Name the file that 'motley federation keygen' wrote: NAME.key."


def check_name(name: str) -> str:
    """`name` if a party can have it: it stands in keys of the store and in tables."""
    if not NAME_PATTERN.fullmatch(name):
        raise ValueError(
            f"name: {name!r} is not 1 to 32 small letters, digits and hyphens, beginning with "
            "a letter or digit"
        )
    return name


def check_public_key(public_key: str) -> str:
    """`public_key` if it is 64 small hex digits."""
    if not re.fullmatch(r"[0-9a-f]{64}", public_key):
        raise ValueError(f"public_key: {public_key[:80]!r} is not 64 small hex digits")
    return public_key


@dataclass(frozen=True, eq=False)
class Identity:
    """A party with its private key; the key is in no text that this gives of itself."""

    party: str
    _key: Ed25519PrivateKey

    @cached_property
    def public_key(self) -> str:
        """64 hex digits."""
        return self._key.public_key().public_bytes_raw().hex()

    def sign(self, body: dict[str, Any]) -> Signed:
        """`body` with this party's name, signed."""
        body = {**body, "party": self.party}
        return Signed(body, self._key.sign(signed_bytes(body)).hex())

    def open(self, sealed: bytes, sender: str, place: bytes) -> bytes | None:
        """What a `Sender` has sealed for this party at that place; None if it is not."""
        private_bytes = self._key.private_bytes_raw()
        return open_sealed(sealed, private_bytes, self.public_key, sender, place)

    def opening_key(self, federation: str, round_: int) -> str:
        """By which this party's update for a round is hidden until its manifest tells it: 64 hex
        digits, the same in each process, so that an upload goes on where it was."""
        purpose = f"motley-federation-1 opening {federation} {round_}".encode()
        return derived(self._key.private_bytes_raw(), purpose).hex()

    def __repr__(self) -> str:
        return f"Identity({self.party}, {self.public_key})"


def new_identity(party: str) -> Identity:
    """A fresh key pair; `IdentityError` for a name that no party can have."""
    try:
        return Identity(check_name(party), Ed25519PrivateKey.generate())
    except ValueError as cause:
        raise IdentityError(f"{cause}.", remedy="Choose another name, such as lab-a.") from None


def save_identity(identity: Identity, path: Path) -> None:
    """Writes the key file, readable by its owner alone; an existing file is never replaced."""
    table = {
        "format": KEY_FORMAT,
        "party": identity.party,
        "private_key": identity._key.private_bytes_raw().hex(),
    }
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(json.dumps(table, indent=2) + "\n")
    except FileExistsError:
        raise IdentityError(
            f"{path} exists already.", remedy="A key cannot be made anew; name another file."
        ) from None
    except OSError as cause:
        raise IdentityError(
            f"{path} cannot be written: {cause.strerror or cause}.",
            remedy="Name another file with --out.",
        ) from None


def load_identity(path: Path) -> Identity:
    """The party of a key file; `IdentityError` if it is missing, damaged or open to others."""
    try:
        mode = path.stat().st_mode
        table = json.loads(path.read_text(encoding="ascii"))
    except FileNotFoundError:
        raise IdentityError(
            f"{path}: no such key file.", remedy="Make one: motley federation keygen NAME."
        ) from None
    except (OSError, ValueError) as cause:
        raise IdentityError(
            f"{path} is not a key file: {cause}.",
            remedy=KEY_FILE,
        ) from None
    if stat.S_IMODE(mode) & 0o077:
        raise IdentityError(
            f"{path} can be read by others; a private key must not be.",
            remedy=f"chmod 600 {path}; if others may have read it, make a new key.",
        )
    return _read_identity(table, path)


def _read_identity(table: Any, path: Path) -> Identity:
    try:
        if table["format"] != KEY_FORMAT:
            raise ValueError(f"its format is {table['format']!r}")
        private_bytes = bytes.fromhex(table["private_key"])
        return Identity(
            check_name(table["party"]), Ed25519PrivateKey.from_private_bytes(private_bytes)
        )
    except (KeyError, TypeError, ValueError) as cause:
        raise IdentityError(
            f"{path} is not a key file of motley: {cause}.",
            remedy=KEY_FILE,
        ) from None


@contextmanager
def holding(path: Path) -> Iterator[Identity]:
    """The party of a key file, while this process alone on this machine acts for it."""
    identity = load_identity(path)
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise IdentityError(
                f"another process on this machine acts for '{identity.party}' with {path}.",
                remedy="Stop that one, or give each party its own key.",
            ) from None
        yield identity
