"""The group key handed out in the log: to each member sealed for its own key, epoch by epoch.

An epoch is the time of one group key; the charter begins epoch 0, and an amendment the next. With
the new key the one before is sealed, so who has the newest can read all that lies in the store, and
who has an older one nothing newer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from motley.federation.keys.agreement import Sender
from motley.federation.keys.encrypt import KEY_BYTES, derived
from motley.federation.keys.identity import Identity, check_name, check_public_key

CHARTER_PLACE = "charter"
"""In place of the federation's digest, which a charter cannot hold."""
_TAG_BYTES = 16
_NONCE = bytes(12)
"""With each key one key is sealed."""


@dataclass(frozen=True, kw_only=True)
class Handout:
    """A group key for some parties. All values but `epoch` are small hex digits."""

    epoch: int
    check: str
    """By which who has the key knows it: 64 digits."""
    sender: str
    """The one-time public key (X25519) that it is sealed with: 64 digits."""
    sealed: dict[str, str]
    """Party to the key, for its eyes alone: 96 digits."""
    previous: str | None = None
    """The key of the epoch before, under this one: 96 digits. Unset where no epoch begins."""

    def __post_init__(self) -> None:
        if self.epoch < 0:
            raise ValueError(f"epoch: must not be negative, found {self.epoch}")
        check_public_key(self.sender)
        for name in self.sealed:
            check_name(name)
        for text in (self.check, *self.sealed.values(), self.previous or ""):
            if set(text) - set("0123456789abcdef"):
                raise ValueError("handout: not small hex digits")
        keys = [*self.sealed.values(), *([] if self.previous is None else [self.previous])]
        if len(self.check) != 64 or any(len(text) != 2 * (KEY_BYTES + _TAG_BYTES) for text in keys):
            raise ValueError("handout: a key of another length")

    def key_of(self, identity: Identity, federation: str) -> bytes | None:
        """The key as it was sealed for this party; None if it was not, or if it is another one."""
        sealed = bytes.fromhex(self.sealed.get(identity.party, ""))
        for place in (federation, CHARTER_PLACE):
            key = identity.open(sealed, self.sender, _place(place, self.epoch))
            if key is not None and check_of(key) == self.check:
                return key
        return None

    def key_before(self, key: bytes) -> bytes | None:
        """The key of the epoch before, given this one's; None if it was not sealed."""
        try:
            return _epochs_cipher(key).decrypt(_NONCE, bytes.fromhex(self.previous or ""), None)
        except (InvalidTag, ValueError):
            return None


def hand_out(
    key: bytes,
    epoch: int,
    parties: Mapping[str, str],
    place: str,
    before: bytes | None = None,
) -> Handout:
    """`key` for the parties (name to public key); `place` is the federation's digest, `before` the
    key of the epoch before, if this begins one. `IdentityError` for a public key that is none."""
    sender = Sender()
    return Handout(
        epoch=epoch,
        check=check_of(key),
        sender=sender.public_key,
        sealed={
            name: sender.seal(key, public_key, _place(place, epoch)).hex()
            for name, public_key in parties.items()
        },
        previous=_epochs_cipher(key).encrypt(_NONCE, before, None).hex() if before else None,
    )


def check_of(key: bytes) -> str:
    """What a handout says of its key; nobody finds the key by it."""
    return derived(key, b"motley-federation-1 check").hex()


def _place(place: str, epoch: int) -> bytes:
    return f"{place} {epoch}".encode()


def _epochs_cipher(key: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(derived(key, b"motley-federation-1 previous"))
