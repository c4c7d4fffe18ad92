"""A member's part in the rounds: publish, close, review, seal, and take in what was sealed.

A `Member` keeps no promise but what lies in the log: it can be killed anywhere and made anew. Its
calls return soon; none waits for another party. One thread at a time uses it.

    member = Member(store, identity, fingerprint)
    member.begin_session()
    member.publish(payload, work, base=state.digest())
    while member.advance(state.digest(), judge) is None:
        ...                                   # train on, look again later
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from motley.errors import (
    IdentityError,
    LogDamagedError,
    PayloadError,
    StateDivergedError,
    VoidObjectError,
)
from motley.federation.bulk import MOST_UPDATE_CHUNKS, check_group_key, read_bulk, write_bulk
from motley.federation.chain import Accepted, SealedRound, compose
from motley.federation.charter import Bulk
from motley.federation.encrypt import GroupCipher
from motley.federation.expectation import Expectation
from motley.federation.identity import Identity
from motley.federation.log import session_stem, update_stem
from motley.federation.membership import Membership
from motley.federation.messages import Review, Session, Update, Vote, body_of, read_body
from motley.federation.objects import Signed
from motley.federation.store import Store
from motley.federation.view import Manifest, OpenRound, View

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a party says of its local training for one update."""

    tokens: int
    steps: int
    seconds: float
    loss: float | None = None
    chips: dict[str, int] = field(default_factory=dict)
    epsilon: float | None = None


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An update to judge: it came whole, from the right base, within the size allowed."""

    update: Update
    payload: bytes


Judge = Callable[[int, Sequence[Candidate]], Sequence[str]]
"""Called with the round and its candidates, in the order in which they were seen; gives a reason of
the protocol, or "", for each."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """The update that stands in the log; `is_new` is false if an earlier one of this party does."""

    update: Update
    is_new: bool


class Member:
    """One party, acting."""

    def __init__(
        self,
        store: Store,
        identity: Identity,
        fingerprint: str | None = None,
        *,
        group_key: bytes | None = None,
        cache: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        report: Report = lambda text: None,
    ) -> None:
        """`cache` is a folder for chunks of downloads; `clock` counts seconds from anywhere."""
        self.store = store
        self.identity = identity
        self.view = View(
            store, fingerprint, lambda refused: report(f"refused {refused.key}: {refused.reason}")
        )
        self.chain = self.view.chain
        self.cipher = self._cipher(group_key)
        self._cache = cache
        self._report = report
        self._session = 0
        self._payloads: dict[Bulk, bytes | str] = {}
        """What was fetched, or the reason why it cannot be had."""
        self._expected = Expectation(self.chain, identity.party, clock)
        self._open: Mapping[str, Manifest] = {}
        """The manifests of the open round when it was last looked at."""

    def _cipher(self, group_key: bytes | None) -> GroupCipher | None:
        if not self.chain.charter.terms.encrypted:
            return None
        if group_key is None:
            raise IdentityError(
                "this federation encrypts its payloads, and no group key was given.",
                remedy="Ask another member for the group key's file.",
            )
        cipher = GroupCipher(group_key)
        check_group_key(self.store, self.chain.charter, cipher)
        return cipher

    @property
    def party(self) -> str:
        return self.identity.party

    @property
    def next_round(self) -> int:
        """The round that is not sealed yet, as far as the log was read."""
        return self.chain.next_round

    @property
    def has_quorum(self) -> bool:
        """Whether a quorum had published for the open round when it was last looked at."""
        active = self.chain.membership.is_active
        published = [party for party in self._open if active(party)]
        return len(published) >= self.chain.needed_updates(self.chain.membership)

    def own_update(self) -> Update | None:
        """This party's update for the open round, as last seen in the log."""
        manifest = self._open.get(self.party)
        return manifest.update if manifest else None

    def look(self) -> OpenRound:
        """Reads the open round anew."""
        look = self.view.look()
        self._open = look.updates
        return look

    def refresh(self) -> list[SealedRound]:
        """Takes in new seals; gives them in order."""
        new = self.view.refresh()
        for sealed in new:
            self._expected.sealed(sealed)
        if new:
            self._open = {}
            needed = {each.update.payload for each in new[-1].accepted}
            self._payloads = {bulk: self._payloads[bulk] for bulk in needed & self._payloads.keys()}
        return new

    # Coming in

    def begin_session(self) -> int:
        """Says in the log that this process acts for the party; gives the session's number.

        `IdentityError` if the party is no active member.
        """
        membership = self.check_standing()
        newest = self.view.sessions(membership).get(self.party)
        number = newest.number + 1 if newest else 0
        while True:
            session = Session(
                party=self.party,
                number=number,
                round=self.next_round,
                nonce=secrets.token_hex(32),
            )
            stem = session_stem(self.party, number)
            read = self.view.reader_of_session(stem, self.party, membership)
            signed = self._sign(session, "session")
            _, is_own = self.view.log.claim(stem, "session", signed.data, read)
            if is_own:
                self._session = number
                return number
            number += 1

    def check_standing(self) -> Membership:
        """The membership as it is now; `IdentityError` if this party is no active member."""
        self.refresh()
        membership = self.look().membership
        self._check_standing(membership.key_of(self.party), membership.is_active(self.party))
        return membership

    def _check_standing(self, key: str | None, is_active: bool) -> None:
        if key is None:
            raise IdentityError(
                f"'{self.party}' is no member of this federation.",
                remedy="Ask who may admit you for: motley federation admit STORE "
                f"{self.party}:{self.identity.public_key}",
            )
        if key != self.identity.public_key:
            raise IdentityError(
                f"the member '{self.party}' has another key than this.",
                remedy="Use the key that was admitted, or make one with another name.",
            )
        if not is_active:
            raise IdentityError(
                f"'{self.party}' was removed or is suspended: its updates were rejected "
                f"{self.chain.charter.terms.defences.strikes} times.",
                remedy=f"Find the cause, then ask for: motley federation admit STORE {self.party}",
            )

    def _check_session(self) -> None:
        """`IdentityError` if a newer process acts for this party."""
        newest = self.view.sessions(self.chain.membership).get(self.party)
        if newest is not None and newest.number > self._session:
            raise IdentityError(
                f"another process acts for '{self.party}' with the same key since round "
                f"{newest.round}; this one stops.",
                remedy="Run one process per key; give each party its own key.",
            )

    # Publishing

    def publish(
        self, payload: bytes, work: Work, *, base: str, round_: int | None = None
    ) -> Published:
        """Announces an update for a round (else: the next to be sealed) that began from `base`.

        After any error it can be called again with the same bytes and goes on where it was. An
        update that this party has published for that round before stays, and is given back.
        """
        round_ = self.next_round if round_ is None else round_
        self._check_publish(payload, base, round_)
        bulk = write_bulk(self.store, payload, self.cipher, MOST_UPDATE_CHUNKS)
        self._check_session()
        update = Update(
            party=self.party,
            round=round_,
            base=base,
            tokens=work.tokens,
            steps=work.steps,
            seconds=work.seconds,
            loss=work.loss,
            chips=work.chips,
            epsilon=work.epsilon,
            session=self._session,
            payload=bulk,
        )
        signed = self._sign(update, "update")
        read = self.view.reader_of_update(round_, self.party, self.view.look().membership)
        stem = update_stem(round_, self.party)
        manifest, is_new = self.view.log.claim(stem, "update", signed.data, read)
        if is_new:
            self._payloads[bulk] = payload
        return Published(update=manifest.update, is_new=is_new)

    def _check_publish(self, payload: bytes, base: str, round_: int) -> None:
        membership = self.chain.membership
        if self.party in membership.standings:
            self._check_standing(self.identity.public_key, membership.is_active(self.party))
        if len(payload) > self.chain.charter.payload_bytes:
            raise PayloadError(
                f"the update has {len(payload)} bytes; the charter allows "
                f"{self.chain.charter.payload_bytes}.",
                reason="oversized",
            )
        known = self.chain.base_of(round_)
        if known is not None and known != base:
            raise self._diverged(round_, base, known)

    def _diverged(self, round_: int, own: str, others: str) -> StateDivergedError:
        return StateDivergedError(
            f"the parameters of '{self.party}' before round {round_} are not the federation's: "
            f"digest {own[:16]} instead of {others[:16]}.",
            remedy="Start again from the log; if it comes back, look for faulty memory.",
        )

    def _sign(self, message: object, kind: str) -> Signed:
        return self.identity.sign(body_of(message, kind, self.chain.federation))

    # Rounds

    def advance(self, base: str, judge: Judge, *, round_: int | None = None) -> SealedRound | None:
        """Does what can be done now to get a round (else: the next) sealed; gives it when it is.

        `base` is the digest of this party's state before that round. `StateDivergedError` if the
        reviewers agreed on another. It may be called at any time, however often; whoever goes on
        after an error names the round, which may have been sealed before the error.
        """
        round_ = self.next_round if round_ is None else round_
        if self.next_round == round_:
            self.refresh()
        if self.next_round == round_:
            self._work_on(self.look(), base, judge)
        if self.next_round == round_:
            return None
        sealed = self.chain.sealed[round_]
        if sealed.base != base:
            raise self._diverged(round_, base, sealed.base)
        return sealed

    def _work_on(self, look: OpenRound, base: str, judge: Judge) -> None:
        fresh = self._candidates(look.updates, look.membership)
        for manifest in fresh.values():
            self._payload_of(manifest.update)
        quorum = self.chain.needed_updates(look.membership)
        published = {each.update.party for each in fresh.values()}
        sessions = partial(self.view.sessions, look.membership)
        if not self._expected.is_closed(published, quorum, sessions):
            return
        candidates = dict(fresh)
        for round_ in self.chain.candidate_rounds()[1:]:
            late = self.view.updates(round_, look.membership)
            candidates |= self._candidates(late, look.membership)
        sealed = self._composed(look, candidates)
        if sealed is None:
            self._review(look, candidates, base, judge)
        elif self.chain.membership.key_of(self.party) and self._expected.is_turn("seal", 1):
            self._seal(sealed)

    def _candidates(
        self, manifests: Mapping[str, Manifest], membership: Membership
    ) -> dict[str, Manifest]:
        """Those that the next seal may decide, by digest."""
        return {
            each.digest: each
            for each in manifests.values()
            if self.chain.is_candidate(each.update, membership)
        }

    def _composed(self, look: OpenRound, candidates: Mapping[str, Manifest]) -> SealedRound | None:
        """The round as the reviews at hand allow to seal it, from as few of them as possible."""
        reviews = [
            signed for party, signed in look.reviews.items() if look.membership.is_active(party)
        ]
        reviews.sort(key=lambda signed: (-len(signed.body["votes"]), signed.party))
        manifests = {digest: each.signed for digest, each in candidates.items()}
        for number in range(self.chain.needed_reviews(look.membership), len(reviews) + 1):
            try:
                return compose(self.chain, self.party, look.pending, reviews[:number], manifests)
            except VoidObjectError:
                continue
        return None

    def _review(
        self, look: OpenRound, candidates: Mapping[str, Manifest], base: str, judge: Judge
    ) -> None:
        """Writes this member's votes, if it is due and they say anything new."""
        needed = self.chain.needed_reviews(look.membership)
        known = look.membership.amendments
        before = look.reviews.get(self.party)
        if before is None:
            if not self._expected.is_turn("review", needed + 1):
                return
        else:
            own = read_body(Review, before, self.chain.federation)
            voted = {vote.manifest for vote in own.votes}
            if voted >= candidates.keys() and (own.base, own.amendments) == (base, known):
                self._check_agreement(look, base, needed)
                return
        self._check_session()
        review = Review(
            party=self.party,
            round=self.next_round,
            previous=self.chain.head,
            base=base,
            amendments=known,
            votes=self._votes(candidates, base, judge),
        )
        self.view.write_review(self._sign(review, "review"), look)

    def _check_agreement(self, look: OpenRound, base: str, needed: int) -> None:
        """`StateDivergedError` if the reviews cannot agree and this party may be the one astray."""
        bases = [str(signed.body["base"]) for signed in look.reviews.values()]
        others = sorted(other for other in bases if other != base)
        if len(bases) >= needed and 2 * len(others) >= len(bases):
            raise self._diverged(self.next_round, base, others[0])

    def _votes(
        self, candidates: Mapping[str, Manifest], base: str, judge: Judge
    ) -> tuple[Vote, ...]:
        reasons: dict[str, str] = {}
        whole: dict[str, Candidate] = {}
        for digest, manifest in sorted(candidates.items(), key=lambda item: item[1].arrival):
            update = manifest.update
            payload = self._payload_of(update)
            own = base if update.round == self.next_round else self.chain.base_of(update.round)
            if isinstance(payload, str):
                reasons[digest] = payload
            elif update.base != own:
                reasons[digest] = "wrong_base"
            else:
                whole[digest] = Candidate(update=update, payload=payload)
        judged = judge(self.next_round, list(whole.values()))
        reasons |= dict(zip(whole, judged, strict=True))
        for digest, reason in reasons.items():
            if reason:
                self._report(f"votes against {candidates[digest].update.party}: {reason}")
        return tuple(Vote(manifest=digest, reason=reasons[digest]) for digest in candidates)

    def _seal(self, sealed: SealedRound) -> None:
        signed = self.identity.sign(sealed.body)
        self.view.write_seal(signed)
        self.refresh()

    # Payloads

    def accepted_payloads(self, sealed: SealedRound) -> list[tuple[Accepted, bytes]]:
        """What counts in a sealed round, in canonical order, with the bytes of each.

        `LogDamagedError` if the store has lost one that the reviewers had.
        """
        found = []
        for each in sealed.accepted:
            payload = self._payload_of(each.update)
            if isinstance(payload, str):
                self._payloads.pop(each.update.payload)
                raise LogDamagedError(
                    f"the update of '{each.update.party}' for round {each.update.round}, which "
                    f"counts in round {sealed.round}, is {payload} in the store.",
                    remedy="Restore the store, or wait for a snapshot of a later round.",
                )
            found.append((each, payload))
        return found

    def _payload_of(self, update: Update) -> bytes | str:
        """The payload, or the reason of the protocol why it cannot be had."""
        if update.payload not in self._payloads:
            try:
                payload: bytes | str = read_bulk(
                    self.store,
                    update.payload,
                    self.cipher,
                    max_bytes=self.chain.charter.payload_bytes,
                    cache=self._cache,
                )
            except PayloadError as refused:
                payload = refused.reason
            self._payloads[update.payload] = payload
        return self._payloads[update.payload]
