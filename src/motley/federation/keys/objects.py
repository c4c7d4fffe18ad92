"""Control objects: canonical JSON with a signature, read strictly and within limits.

One meaning has one spelling, so a digest names what an object says. Whatever is not exactly that
spelling, too large, too deep or not signed by the key it must be signed by is void: it raises
`VoidObjectError` and has no other effect. Nothing is ever unpickled or executed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from motley.errors import VoidObjectError

SIGNATURE_DOMAIN = b"motley-federation-1\n"
"""Stands before what is signed, so that no signature made for another purpose fits."""

LARGEST_BYTES = {
    "charter": 4 * 2**20,
    "amendment": 2 * 2**20,
    "session": 4 * 2**10,
    "update": 64 * 2**10,
    "review": 4 * 2**20,
    "seal": 32 * 2**20,
    "snapshot": 4 * 2**20,
}
"""By kind; enough for 10,000 members and for states of 100 GB in chunks of 4 MiB."""

LARGEST_INTEGER = 2**53
DEEPEST = 16


def canonical(value: Any) -> bytes:
    """The one spelling of a JSON value: sorted keys, no white space, ASCII."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
    return text.encode("ascii")


def plain(value: Any) -> Any:
    """Dataclasses as plain JSON values, with unset fields left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((each.name, getattr(value, each.name)) for each in dataclasses.fields(value))
        return {name: plain(item) for name, item in pairs if item is not None}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def digest_of(data: bytes | bytearray | memoryview) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def check_digest(name: str, text: str) -> None:
    """`ValueError` if `text` is not a SHA-256 in hex."""
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise ValueError(f"{name}: {text[:80]!r} is not 64 small hex digits")


@dataclass(frozen=True)
class Signed:
    """A body with the signature of the party that it names."""

    body: dict[str, Any]
    signature: str

    @property
    def party(self) -> str:
        return str(self.body["party"])

    def to_dict(self) -> dict[str, Any]:
        return {"body": self.body, "signature": self.signature}

    @cached_property
    def data(self) -> bytes:
        """The object's bytes in the store."""
        return canonical(self.to_dict())

    @cached_property
    def digest(self) -> str:
        return digest_of(self.data)


def signed_bytes(body: dict[str, Any]) -> bytes:
    """What a signature of `body` covers."""
    return SIGNATURE_DOMAIN + canonical(body)


def open_signed(data: bytes, kind: str, key_of: Callable[[str], str | None]) -> Signed:
    """The object of that kind in `data`; `key_of` gives the public key that a party must have
    signed with, or None for a party that is not known. `VoidObjectError` says what is wrong."""
    if len(data) > LARGEST_BYTES[kind]:
        raise VoidObjectError(f"{len(data)} bytes, more than a {kind} may have")
    return check_signed(parse_canonical(data), kind, key_of)


def parse_canonical(data: bytes) -> Any:
    """The JSON value that `data` spells canonically."""
    try:
        value = json.loads(data.decode("ascii"), parse_constant=_refuse_constant)
        is_canonical = canonical(value) == data
    except (ValueError, RecursionError):
        raise VoidObjectError("not JSON") from None
    if not is_canonical:
        raise VoidObjectError("not in canonical form")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def check_signed(value: Any, kind: str, key_of: Callable[[str], str | None]) -> Signed:
    """As `open_signed`, of an object that stands inside another one.

    The signature is checked before anything else is looked at, so that strangers cost little.
    """
    if not isinstance(value, dict) or value.keys() != {"body", "signature"}:
        raise VoidObjectError("not a signed object")
    body, signature = value["body"], value["signature"]
    if not isinstance(body, dict) or not isinstance(signature, str):
        raise VoidObjectError("not a signed object")
    if body.get("kind") != kind:
        raise VoidObjectError(f"not a {kind}")
    party = body.get("party")
    public_key = key_of(party) if isinstance(party, str) else None
    if public_key is None:
        raise VoidObjectError("signed by no member")
    if not is_signature(public_key, signature, signed_bytes(body)):
        raise VoidObjectError(f"the signature is not that of '{party}'")
    _check_values(body, DEEPEST)
    return Signed(body, signature)


def is_signature(public_key: str, signature: str, data: bytes) -> bool:
    """Whether the Ed25519 `signature` (hex) of `data` was made with the key of `public_key`."""
    if len(signature) != 128 or signature != signature.lower():
        return False
    try:
        _public_key(public_key).verify(bytes.fromhex(signature), data)
    except (InvalidSignature, ValueError):
        return False
    return True


@lru_cache(maxsize=20_000)
def _public_key(public_key: str) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))


def _check_values(value: Any, depth: int) -> None:
    """Numbers that every implementation holds exactly, text that can be printed, not too deep."""
    if depth < 0:
        raise VoidObjectError(f"nested more than {DEEPEST} deep")
    if isinstance(value, dict):
        for key, item in value.items():
            _check_text(key)
            _check_values(item, depth - 1)
    elif isinstance(value, list):
        for item in value:
            _check_values(item, depth - 1)
    elif isinstance(value, str):
        _check_text(value)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise VoidObjectError("a number that is not finite")
    elif isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        raise VoidObjectError("a whole number beyond 2^53")


def _check_text(text: str) -> None:
    if not text.isprintable():
        raise VoidObjectError("a text that cannot be printed")
