"""The chain of seals: what follows from a charter and the seals after it.

`compose` makes the one seal body that given reviews allow; checking a seal is composing it again
from what it holds. So its validity depends on its bytes and the seals before it alone: not on what
can be fetched, nor on a clock, and every party comes to the same result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from motley.errors import VoidObjectError
from motley.federation.charter.charter import Charter
from motley.federation.charter.membership import Membership
from motley.federation.charter.messages import (
    REASONS,
    Amendment,
    Review,
    Seal,
    Update,
    body_of,
    read_body,
)
from motley.federation.keys.objects import Signed, canonical, check_signed, digest_of, open_signed
from motley.federation.log.votes import decided_by

KeyOf = Callable[[str], str | None]

MOST_REMEMBERED = 50_000

SETTLED_TIES = 2
"""From this version of the charter on a tie is no verdict while a cited reviewer has not voted."""


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """An update that counts, with its weight."""

    update: Update
    weight: int


@dataclass(frozen=True, kw_only=True)
class Rejected:
    update: Update
    reason: str


@dataclass(frozen=True, kw_only=True)
class SealedRound:
    """What a valid seal commits. Updates are in canonical order: by round, then party."""

    round: int
    party: str
    """Who sealed it."""
    base: str
    """Digest of the state before the round."""
    accepted: tuple[Accepted, ...]
    rejected: tuple[Rejected, ...]
    reviews: tuple[Review, ...]
    membership: Membership
    """With the amendments of this seal, before its strikes."""
    body: dict[str, Any]

    def updates(self) -> list[Update]:
        """All that the round decides on."""
        return [each.update for each in self.accepted] + [each.update for each in self.rejected]

    def strikes(self) -> list[str]:
        """The parties that earned one by a rejected update."""
        return [each.update.party for each in self.rejected if REASONS[each.reason]]


class Remembering:
    """Checks signed objects; what has been checked once is known by its digest."""

    def __init__(self) -> None:
        self._known: dict[str, Signed] = {}

    def open(self, data: bytes, kind: str, key_of: KeyOf) -> Signed:
        """As `open_signed`."""
        known = self._known.get(digest_of(data))
        if known is not None and known.body["kind"] == kind:
            return known
        return self._remember(open_signed(data, kind, key_of))

    def check(self, value: Any, kind: str, key_of: KeyOf) -> Signed:
        """As `check_signed`."""
        known = self._known.get(digest_of(canonical(value)))
        if known is not None and known.body["kind"] == kind:
            return known
        return self._remember(check_signed(value, kind, key_of))

    def _remember(self, signed: Signed) -> Signed:
        if len(self._known) >= MOST_REMEMBERED:
            self._known.clear()
        self._known[signed.digest] = signed
        return signed


class Chain:
    """The valid seals so far and what follows from them. Only `append` changes it."""

    def __init__(self, charter: Charter, federation: str) -> None:
        self.charter = charter
        self.federation = federation
        self.membership = self._first = Membership.of(charter, federation)
        self.sealed: list[SealedRound] = []
        self.head = federation
        """Digest of the last seal, or of the charter."""
        self.memory = Remembering()
        self._decided: set[tuple[int, str]] = set()
        self._links: list[tuple[str, tuple[str, ...]]] = []
        """What `append` was given beside each round."""

    @property
    def next_round(self) -> int:
        return len(self.sealed)

    def base_of(self, round_: int) -> str | None:
        """Digest of the state before a round, as far as the seals say it."""
        if round_ == 0:
            return self.charter.base.digest
        return self.sealed[round_].base if round_ < len(self.sealed) else None

    def epoch_of(self, round_: int) -> int | None:
        """Of the group key for the updates of a round and the state before it; None where nothing
        is encrypted. It follows from the seals before that round."""
        before = self.sealed[:round_]
        return (before[-1].membership if before else self._first).epoch

    def own_fault(self, update: Update, base: str) -> str:
        """A reason to reject an update that stands in its manifest alone, or ""; `base` is the
        digest of the state before the open round."""
        if update.base != (base if update.round == self.next_round else self.base_of(update.round)):
            return "wrong_base"
        return "" if update.payload.epoch == self.epoch_of(update.round) else "wrong_epoch"

    def candidate_rounds(self) -> list[int]:
        """The rounds whose updates the next seal may decide: its own, then older ones."""
        terms = self.charter.terms.round
        oldest = max(0, self.next_round - terms.staleness * terms.fragments)
        return list(range(self.next_round, oldest - 1, -terms.fragments))

    def is_candidate(self, update: Update, membership: Membership | None = None) -> bool:
        """Whether the next seal may decide on this update."""
        return (
            update.round in self.candidate_rounds()
            and (update.round, update.party) not in self._decided
            and (membership or self.membership).is_active(update.party)
        )

    def needed_reviews(self, membership: Membership) -> int:
        """Without which there is no seal."""
        return self.charter.terms.round.needed_reviews(len(membership.active()))

    def settling_reviews(self, membership: Membership) -> int:
        """That are enough for one whatever they say; fewer must say the same."""
        return self.charter.terms.round.settling_reviews(len(membership.active()))

    def drawn(self, party: str) -> str:
        """By what parties are ordered for the open round: another order after each seal."""
        return digest_of(f"{self.head} {party}".encode())

    def needed_updates(self, membership: Membership) -> int:
        return min(self.charter.terms.round.quorum, len(membership.active()))

    def check(self, data: bytes) -> SealedRound:
        """The next round as the seal in `data` commits it; `VoidObjectError` if it is not valid."""
        signed = self.memory.open(data, "seal", self.membership.key_of)
        seal = read_body(Seal, signed, self.federation)
        if seal.round != self.next_round or seal.previous != self.head:
            raise VoidObjectError("does not continue the chain")
        amendments = self._amendments(seal.amendments)
        key_of = self.amended(amendments).key_of
        reviews = [self.memory.check(value, "review", key_of) for value in seal.reviews]
        updates = [self.memory.check(value, "update", key_of) for value in seal.updates]
        manifests = {signed.digest: signed for signed in updates}
        sealed = compose(self, seal.party, amendments, reviews, manifests)
        if canonical(sealed.body) != canonical(signed.body):
            raise VoidObjectError("says other than what follows from its reviews")
        return sealed

    def _amendments(self, values: Sequence[Any]) -> list[Signed]:
        """Each is signed by one who may amend once those before it are in force."""
        amendments: list[Signed] = []
        for value in values:
            amender_key = self.amended(amendments).amender_key
            amendments.append(self.memory.check(value, "amendment", amender_key))
        return amendments

    def amended(self, amendments: Iterable[Signed]) -> Membership:
        """The membership with these amendments; `VoidObjectError` if they do not continue it."""
        membership = self.membership
        for signed in amendments:
            amendment = read_body(Amendment, signed, self.federation)
            membership = membership.amended(signed, amendment)
        return membership

    def offender(self, void: bytes) -> str | None:
        """Who signed an invalid seal for the next round; None if that is no member's work for it.

        An old seal that somebody copied there is no offence of its signer.
        """
        try:
            signed = self.memory.open(void, "seal", self.membership.key_of)
        except VoidObjectError:
            return None
        is_for_this = (signed.body.get("federation"), signed.body.get("round")) == (
            self.federation,
            self.next_round,
        )
        return signed.party if is_for_this else None

    def append(self, sealed: SealedRound, seal_digest: str, offenders: Sequence[str] = ()) -> None:
        """Takes in the next round; `offenders` signed invalid seals for it."""
        assert sealed.round == self.next_round
        self.sealed.append(sealed)
        self.head = seal_digest
        accepted = [each.update.party for each in sealed.accepted]
        self.membership = sealed.membership.after(accepted, [*sealed.strikes(), *offenders])
        self._decided |= {_place(update) for update in sealed.updates()}
        self._links.append((seal_digest, tuple(offenders)))

    def until(self, rounds: int) -> Chain:
        """The chain as it was after so many rounds."""
        chain = Chain(self.charter, self.federation)
        chain.memory = self.memory
        for sealed, link in zip(self.sealed[:rounds], self._links[:rounds], strict=True):
            chain.append(sealed, *link)
        return chain


def compose(
    chain: Chain,
    party: str,
    amendments: Sequence[Signed],
    reviews: Sequence[Signed],
    manifests: Mapping[str, Signed],
) -> SealedRound:
    """The next round as `party` can seal it with these reviews; `manifests` by digest.

    `VoidObjectError` says why they do not allow a seal.
    """
    membership = chain.amended(amendments)
    if not membership.is_active(party):
        raise VoidObjectError(f"'{party}' is no active member")
    cited = sorted(reviews, key=lambda signed: signed.party)
    read = tuple(read_body(Review, signed, chain.federation) for signed in cited)
    _check_reviews(chain, membership, read)
    base = _majority_base(chain, read)
    decided = decided_by(read, settles_ties=chain.charter.version >= SETTLED_TIES)
    for digest in decided:
        if digest not in manifests:
            raise VoidObjectError("a decided update's manifest is lacking")
    updates = {digest: read_body(Update, manifests[digest], chain.federation) for digest in decided}
    verdicts = {
        digest: chain.own_fault(update, base) or decided[digest]
        for digest, update in updates.items()
        if chain.is_candidate(update, membership)
    }
    _check_distinct(chain, membership, [updates[digest] for digest in verdicts])
    in_order = sorted(updates, key=lambda digest: (_place(updates[digest]), digest))
    accepted = _weighted(chain, [updates[d] for d in in_order if verdicts.get(d) == ""])
    rejected = tuple(
        Rejected(update=updates[d], reason=verdicts[d]) for d in in_order if verdicts.get(d)
    )
    seal = Seal(
        party=party,
        round=chain.next_round,
        previous=chain.head,
        base=base,
        amendments=[signed.to_dict() for signed in amendments],
        reviews=[signed.to_dict() for signed in cited],
        updates=[manifests[digest].to_dict() for digest in in_order],
        accepted=[_row(each.update, weight=each.weight) for each in accepted],
        rejected=[_row(each.update, reason=each.reason) for each in rejected],
    )
    return SealedRound(
        round=chain.next_round,
        party=party,
        base=base,
        accepted=accepted,
        rejected=rejected,
        reviews=read,
        membership=membership,
        body=body_of(seal, "seal", chain.federation),
    )


def _check_reviews(chain: Chain, membership: Membership, reviews: Sequence[Review]) -> None:
    parties = [review.party for review in reviews]
    if len(set(parties)) < len(parties):
        raise VoidObjectError("two reviews of one member")
    if len(reviews) < chain.needed_reviews(membership):
        raise VoidObjectError(f"{len(reviews)} reviews are too few")
    for review in reviews:
        if not membership.is_active(review.party):
            raise VoidObjectError(f"a review by '{review.party}', who is no active member")
        if (review.round, review.previous) != (chain.next_round, chain.head):
            raise VoidObjectError(f"the review of '{review.party}' is for another round")
        if review.amendments > membership.amendments:
            raise VoidObjectError("lacks an amendment that a reviewer knows")
    said = [{vote.manifest: vote.reason for vote in review.votes} for review in reviews]
    if len(reviews) < chain.settling_reviews(membership) and any(each != said[0] for each in said):
        raise VoidObjectError("the reviews do not say the same: another one has to settle it")


def _majority_base(chain: Chain, reviews: Sequence[Review]) -> str:
    base, votes = Counter(review.base for review in reviews).most_common(1)[0]
    if 2 * votes <= len(reviews):
        raise VoidObjectError("the reviewers do not agree on the state")
    if chain.next_round == 0 and base != chain.charter.base.digest:
        raise VoidObjectError("the state is not the charter's")
    return base


def _check_distinct(chain: Chain, membership: Membership, updates: Sequence[Update]) -> None:
    places = {_place(update) for update in updates}
    if len(places) < len(updates):
        raise VoidObjectError("two updates of one party for one round")
    fresh = sum(update.round == chain.next_round for update in updates)
    if fresh < chain.needed_updates(membership):
        raise VoidObjectError(f"{fresh} decided updates are no quorum")


def _weighted(chain: Chain, updates: Sequence[Update]) -> tuple[Accepted, ...]:
    """Tokens as weights, bounded by a multiple of their lower median."""
    tokens = sorted(update.tokens for update in updates)
    ratio = chain.charter.terms.defences.max_weight_ratio
    bound = int(tokens[(len(tokens) - 1) // 2] * ratio) if tokens else 0
    return tuple(Accepted(update=each, weight=min(each.tokens, bound)) for each in updates)


def _place(update: Update) -> tuple[int, str]:
    return update.round, update.party


def _row(update: Update, **verdict: Any) -> dict[str, Any]:
    return {"party": update.party, "round": update.round, **verdict}
