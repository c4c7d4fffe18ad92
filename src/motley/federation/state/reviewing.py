"""A member's votes on the updates of a round, and what the reviews at hand say of each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from motley.errors import VoidObjectError
from motley.federation.charter.messages import Review, Update, Vote, read_body
from motley.federation.keys.objects import Signed
from motley.federation.log.chain import Chain, SealedRound, compose
from motley.federation.log.payloads import Payloads
from motley.federation.log.view import Manifest, OpenRound


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An update to judge: it came whole, from the right base, within the size allowed."""

    update: Update
    payload: bytes


Judge = Callable[[int, Sequence[Candidate]], Sequence[str]]
"""Called with the round and its candidates, in the order in which they were seen; gives a reason of
the protocol, or "", for each."""

Manifests = Mapping[str, Manifest]
"""By digest."""


def verdicts(
    chain: Chain, candidates: Manifests, payloads: Payloads, base: str, judge: Judge
) -> dict[str, str]:
    """A reason for each candidate of the open round by digest, "" to accept.

    `base` is the reviewer's own digest of the state before the round. What was compared with each
    other is in the order in which it was seen: whoever verifies the votes needs it.
    """
    reasons: dict[str, str] = {}
    whole: dict[str, Candidate] = {}
    for digest, manifest in sorted(
        candidates.items(), key=lambda item: (item[1].arrival, chain.drawn(item[1].update.party))
    ):
        update = manifest.update
        payload = payloads.of(update)
        fault = chain.own_fault(update, base)
        if isinstance(payload, str):
            reasons[digest] = payload
        elif fault:
            reasons[digest] = fault
        else:
            whole[digest] = Candidate(update=update, payload=payload)
    judged = judge(chain.next_round, list(whole.values()))
    at_once = Counter(candidates[digest].arrival for digest in whole)
    for digest, reason in zip(whole, judged, strict=True):
        has_order = at_once[candidates[digest].arrival] == 1
        reasons[digest] = "disputed" if reason == "copied" and not has_order else reason
    return reasons


def review_of(
    chain: Chain, party: str, base: str, amendments: int, reasons: Mapping[str, str]
) -> Review:
    """The votes as the object that the party signs."""
    return Review(
        party=party,
        round=chain.next_round,
        previous=chain.head,
        base=base,
        amendments=amendments,
        votes=tuple(Vote(manifest=each, reason=reason) for each, reason in reasons.items()),
    )


def says_all(chain: Chain, written: Signed, candidates: Manifests, base: str, known: int) -> bool:
    """Whether a review that is in the log needs no further edition."""
    own = read_body(Review, written, chain.federation)
    voted = {vote.manifest for vote in own.votes}
    return voted >= candidates.keys() and (own.base, own.amendments) == (base, known)


def other_base(look: OpenRound, base: str, needed: int) -> str | None:
    """The state that others name, if the reviews cannot agree and this party may be astray."""
    bases = [str(signed.body["base"]) for signed in look.reviews.values()]
    others = sorted(other for other in bases if other != base)
    return others[0] if len(bases) >= needed and 2 * len(others) >= len(bases) else None


def composed(
    chain: Chain, party: str, look: OpenRound, candidates: Manifests
) -> SealedRound | None:
    """The round as the reviews at hand allow to seal it, from as few of them as possible."""
    active = look.membership.is_active
    reviews = [signed for name, signed in look.reviews.items() if active(name)]
    reviews.sort(key=lambda signed: (-len(signed.body["votes"]), chain.drawn(signed.party)))
    manifests = {digest: each.signed for digest, each in candidates.items()}
    for number in range(chain.needed_reviews(look.membership), len(reviews) + 1):
        try:
            return compose(chain, party, look.pending, reviews[:number], manifests)
        except VoidObjectError:
            continue
    return None
