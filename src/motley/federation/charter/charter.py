"""The charter: what all parties of a federation have agreed on, signed by its founder.

`docs/protocol.md` says what the fields mean together. Everything that changes the mathematics
between parties stands here and nowhere else; a party adds only its own text, seed and chips.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from motley.errors import CharterError, TermsError, VoidObjectError
from motley.federation.charter.terms import Terms
from motley.federation.keys.handout import Handout
from motley.federation.keys.identity import Identity, check_name, check_public_key
from motley.federation.keys.objects import Signed, check_digest, digest_of, open_signed, plain
from motley.federation.storage.reference import Bulk
from motley.model.config import ModelConfig
from motley.recipe import OptimizerConfig, Recipe, ScheduleConfig
from motley.schema import build, require_positive

FINGERPRINT_DIGITS = 16


@dataclass(frozen=True, kw_only=True)
class MemberKey:
    """A party and the key that its objects are signed with."""

    name: str
    public_key: str

    def __post_init__(self) -> None:
        check_name(self.name)
        check_public_key(self.public_key)


@dataclass(frozen=True, kw_only=True)
class SharedRecipe:
    """The part of the recipe that all parties train alike."""

    model: ModelConfig
    """With its vocabulary, so that all parties have the same parameters."""
    sequence_length: int
    optimizer: OptimizerConfig
    schedule: ScheduleConfig

    def __post_init__(self) -> None:
        require_positive(self, "sequence_length")
        if self.model.vocab_size is None:
            raise ValueError("model.vocab_size: must be given")


def check_shareable(recipe: Recipe) -> None:
    """`TermsError` for what a recipe asks that a federation cannot do."""
    if recipe.growth is not None:
        raise TermsError(
            "a federation cannot begin from [growth]: the run lies with one party alone.",
            remedy="Leave [growth] out of the recipe.",
        )
    if recipe.schedule.tail_average_share:
        raise TermsError(
            "schedule.tail_average_share: the mean over a party's own last steps is not the model "
            "that all have agreed on.",
            remedy="Leave it out of the recipe: the outer step averages already.",
        )


def shared_recipe(recipe: Recipe) -> SharedRecipe:
    """What a recipe says that all parties must train alike; `TermsError` as `check_shareable`."""
    check_shareable(recipe)
    return SharedRecipe(
        model=recipe.model,
        sequence_length=recipe.batch.sequence_length,
        optimizer=recipe.optimizer,
        schedule=recipe.schedule,
    )


@dataclass(frozen=True, kw_only=True)
class NamedBulk:
    """A bulk object with the digest of what it means (tokenizer or state)."""

    digest: str
    bulk: Bulk

    def __post_init__(self) -> None:
        check_digest("digest", self.digest)


@dataclass(frozen=True, kw_only=True)
class Charter:
    """All that `charter.json` says. `digest` is the federation's identity."""

    terms: Terms
    founder: MemberKey
    members: tuple[MemberKey, ...]
    recipe: SharedRecipe
    tokenizer: NamedBulk
    base: NamedBulk
    payload_bytes: int
    """The largest payload of an update."""
    handout: Handout | None = None
    """The first group key for founder and members, if payloads are encrypted."""
    version: Literal[1, 2] = 2
    """1: `reviews` stands in the terms, and ties are settled at once."""

    def __post_init__(self) -> None:
        require_positive(self, "payload_bytes")
        if not self.members:
            raise ValueError("members: there are none")
        names = Counter(member.name for member in (self.founder, *self.members))
        keys = Counter(member.public_key for member in self.members)
        if self.founder in self.members:
            names[self.founder.name] -= 1
        for text, count in (names + keys).items():
            if count > 1:
                raise ValueError(f"members: {text} is there twice")
        self._check_handout()

    def _check_handout(self) -> None:
        handout = self.handout
        if self.terms.encrypted != (handout is not None):
            raise ValueError("handout: is given if payloads are encrypted, and only then")
        epochs = {self.tokenizer.bulk.epoch, self.base.bulk.epoch}
        if epochs != {0 if self.terms.encrypted else None}:
            raise ValueError("epoch: tokenizer and base are encrypted as the terms say")
        if handout is None:
            return
        names = {member.name for member in (self.founder, *self.members)}
        if handout.epoch or handout.previous is not None or handout.sealed.keys() != names:
            raise ValueError("handout: must be of epoch 0, for founder and members")

    def body(self) -> dict[str, Any]:
        """What the founder signs."""
        return {"kind": "charter", **plain(self)}


def sign_charter(charter: Charter, founder: Identity) -> Signed:
    """The charter as it lies in the store."""
    assert founder.party == charter.founder.name
    assert founder.public_key == charter.founder.public_key
    return founder.sign(charter.body())


def read_charter(data: bytes, fingerprint: str | None = None) -> tuple[Charter, str]:
    """The charter in `data` and its digest, which must begin with `fingerprint` where one is given;
    `CharterError` says what is wrong."""
    digest = digest_of(data)
    if fingerprint is not None and len(fingerprint) < FINGERPRINT_DIGITS:
        raise CharterError(
            f"'{fingerprint}' is no fingerprint: it has fewer than {FINGERPRINT_DIGITS} digits.",
            remedy="Give it as 'create' printed it.",
        )
    if fingerprint is not None and not digest.startswith(fingerprint.lower()):
        raise CharterError(
            f"this is another charter: its fingerprint is {digest[:FINGERPRINT_DIGITS]}, "
            f"not {fingerprint[:FINGERPRINT_DIGITS]}.",
            remedy="Ask the founder for store and fingerprint; the charter may have been changed.",
        )
    try:
        signed = open_signed(data, "charter", lambda party: _founder_key(data, party))
    except VoidObjectError as cause:
        raise CharterError(
            f"the charter is damaged or was changed: {cause.message}.",
            remedy="Do not join; ask the founder for the original.",
        ) from None
    table = {key: item for key, item in signed.body.items() if key not in ("kind", "party")}
    charter = build(Charter, table, "charter", CharterError)
    if charter.founder.name != signed.party:
        raise CharterError("the charter is not signed by the founder that it names.")
    return charter, digest


def _founder_key(data: bytes, party: str) -> str | None:
    """The key that the charter itself gives for its founder."""
    founder = json.loads(data)["body"].get("founder")
    if not isinstance(founder, dict) or founder.get("name") != party:
        return None
    key = founder.get("public_key")
    return key if isinstance(key, str) else None
