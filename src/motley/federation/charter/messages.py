"""What the objects of the log say, as frozen dataclasses read from checked bodies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from motley.errors import VoidObjectError
from motley.federation.keys.handout import Handout
from motley.federation.keys.identity import check_name, check_public_key
from motley.federation.keys.objects import Signed, check_digest, plain
from motley.federation.storage.reference import Bulk
from motley.schema import build, require_positive

T = TypeVar("T")

REASONS: Mapping[str, bool] = {
    "copied": True,
    "damaged": True,
    "disputed": False,
    "loss_gate": True,
    "malformed": True,
    "missing": True,
    "noise": True,
    "nonfinite": True,
    "outlier": True,
    "oversized": True,
    "wrong_base": True,
    "wrong_epoch": True,
}
"""Why an update is rejected, and whether that earns its party a strike."""

LONGEST_TEXT = 64
MOST_CHIP_KINDS = 64


@dataclass(frozen=True, kw_only=True)
class Update:
    """A party's manifest of its work for a round. Figures are the party's own statement."""

    party: str
    round: int
    base: str
    """Digest of the state that the work began from."""
    tokens: int
    steps: int
    seconds: float
    loss: float | None = None
    """Mean training loss in nats per token; unset if it was not finite, or where the charter asks
    for differential privacy: it is a figure of the text that no noise covers."""
    chips: dict[str, int] = field(default_factory=dict)
    """Kind to number."""
    epsilon: float | None = None
    """Privacy spent so far, at the charter's delta."""
    session: int
    payload: Bulk
    opening_key: str | None = None
    """By which its chunks were hidden until this manifest stood in the log: 64 hex digits."""

    def __post_init__(self) -> None:
        check_name(self.party)
        check_digest("base", self.base)
        if self.opening_key is not None:
            check_digest("opening_key", self.opening_key)
        require_positive(self, "tokens", "steps")
        _require_natural(self, "round", "seconds", "session")
        if len(self.chips) > MOST_CHIP_KINDS or any(
            len(kind) > LONGEST_TEXT or number < 1 for kind, number in self.chips.items()
        ):
            raise ValueError("chips: too many kinds, too long a kind, or a number below 1")

    @property
    def chip_seconds(self) -> float:
        return self.seconds * sum(self.chips.values())


@dataclass(frozen=True, kw_only=True)
class Vote:
    """A reviewer's word on one manifest."""

    manifest: str
    reason: str
    """Empty to accept."""

    def __post_init__(self) -> None:
        check_digest("manifest", self.manifest)
        if self.reason and self.reason not in REASONS:
            raise ValueError(f"reason: {self.reason[:LONGEST_TEXT]!r} is not one of the protocol's")


@dataclass(frozen=True, kw_only=True)
class Review:
    """A member's votes on the candidates of a round."""

    party: str
    round: int
    previous: str
    base: str
    """Digest of the reviewer's own state before the round."""
    amendments: int
    """How many amendments the reviewer knows."""
    votes: tuple[Vote, ...]

    def __post_init__(self) -> None:
        check_digest("previous", self.previous)
        check_digest("base", self.base)
        _require_natural(self, "round", "amendments")
        if len({vote.manifest for vote in self.votes}) < len(self.votes):
            raise ValueError("votes: two on one manifest")


@dataclass(frozen=True, kw_only=True)
class Amendment:
    """One change of the membership, or of the group key."""

    party: str
    number: int
    previous: str
    action: Literal["admit", "remove", "readmit", "rotate"]
    name: str | None = None
    """Whom it concerns; unset to rotate the group key alone."""
    public_key: str | None = None
    handout: Handout | None = None
    """Where payloads are encrypted: the group key for who comes, the next one if somebody goes."""

    def __post_init__(self) -> None:
        if (self.action == "rotate") != (self.name is None):
            raise ValueError("name: is given but to rotate")
        if self.name is not None:
            check_name(self.name)
        check_digest("previous", self.previous)
        _require_natural(self, "number")
        if (self.action == "admit") != (self.public_key is not None):
            raise ValueError("public_key: is given to admit, and only then")
        if self.public_key is not None:
            check_public_key(self.public_key)


@dataclass(frozen=True, kw_only=True)
class Session:
    """A process began to act for a party, when `round` was the next to be sealed."""

    party: str
    number: int
    round: int
    nonce: str
    """Random, so that two processes never write the same session."""

    def __post_init__(self) -> None:
        check_digest("nonce", self.nonce)
        _require_natural(self, "number", "round")


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Where the state before `round` lies."""

    party: str
    round: int
    digest: str
    state: Bulk

    def __post_init__(self) -> None:
        check_digest("digest", self.digest)
        _require_natural(self, "round")


@dataclass(frozen=True, kw_only=True)
class Seal:
    """The four lists of signed objects and verdicts are plain JSON: see
    `motley.federation.log.chain`, which makes and checks them."""

    party: str
    round: int
    previous: str
    base: str
    amendments: list[Any]
    reviews: list[Any]
    updates: list[Any]
    accepted: list[Any]
    rejected: list[Any]


def _require_natural(instance: Any, *names: str) -> None:
    for name in names:
        if getattr(instance, name) < 0:
            raise ValueError(f"{name}: must not be negative")


def read_body(cls: type[T], signed: Signed, federation: str) -> T:
    """The message in a signed object of this federation; `VoidObjectError` if it is none."""
    if signed.body.get("federation") != federation:
        raise VoidObjectError("made for another federation")
    table = {key: item for key, item in signed.body.items() if key not in ("kind", "federation")}
    if cls is Seal:
        return cls(**_seal_fields(table))
    return build(cls, table, str(signed.body["kind"]), VoidObjectError)


def _seal_fields(table: dict[str, Any]) -> dict[str, Any]:
    names = Seal.__dataclass_fields__
    lists = ("amendments", "reviews", "updates", "accepted", "rejected")
    texts = ("party", "previous", "base")
    right = (
        table.keys() == names.keys()
        and all(isinstance(table[name], list) for name in lists)
        and all(isinstance(table[name], str) for name in texts)
        and type(table["round"]) is int
    )
    if not right:
        raise VoidObjectError("not the fields of a seal")
    return table


def body_of(message: Any, kind: str, federation: str) -> dict[str, Any]:
    """What is signed for a message; `read_body` reads it back."""
    return {"kind": kind, "federation": federation, **plain(message)}
