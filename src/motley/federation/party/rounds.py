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

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from motley.errors import PayloadError, StateDivergedError
from motley.federation.charter.membership import Membership
from motley.federation.charter.messages import Update, body_of
from motley.federation.keys.encrypt import GroupCipher
from motley.federation.keys.identity import Identity
from motley.federation.keys.objects import Signed
from motley.federation.log.chain import Accepted, SealedRound
from motley.federation.log.expectation import Expectation
from motley.federation.log.keyring import Keyring
from motley.federation.log.log import update_stem
from motley.federation.log.payloads import Payloads
from motley.federation.log.view import Manifest, OpenRound, View
from motley.federation.party.acting import Acting
from motley.federation.state.reviewing import (
    Judge,
    Manifests,
    composed,
    other_base,
    review_of,
    says_all,
    verdicts,
)
from motley.federation.storage.bulk import MOST_UPDATE_CHUNKS, write_bulk
from motley.federation.storage.reference import Bulk
from motley.federation.storage.store import Store

Report = Callable[[str], None]

HIDDEN_UPDATES = 2
"""From this version of the charter on chunks are hidden until their manifest stands in the log."""


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
        self.keyring = Keyring(self.chain.federation, identity)
        self.keyring.learn(self.chain.membership.handouts)
        self._report = report
        self._acting = Acting(self.view, identity)
        self._payloads = Payloads(store, self.chain, self.keyring, cache)
        self._expected = Expectation(self.chain, identity.party, clock)
        self._open: OpenRound | None = None
        """The open round when it was last looked at; None before."""
        self._told = -1
        """The last round whose reviewers disagreed for long."""

    @property
    def party(self) -> str:
        return self.identity.party

    @property
    def next_round(self) -> int:
        """The round that is not sealed yet, as far as the log was read."""
        return self.chain.next_round

    @property
    def is_closed(self) -> bool:
        """Whether this party waits only for reviews and the seal of the open round."""
        return self._expected.closed_at is not None

    @property
    def has_quorum(self) -> bool:
        """Whether a quorum had published for the open round when it was last looked at."""
        return self.lacking()[0] == 0

    def lacking(self) -> tuple[int, list[str]]:
        """How many updates the open round lacks for a quorum, as last seen in the log, and the
        active members that have published none."""
        membership = self._open.membership if self._open else self.chain.membership
        there = self._open.updates if self._open else {}
        missing = [party for party in membership.active() if party not in there]
        published = len(membership.active()) - len(missing)
        return max(0, self.chain.needed_updates(membership) - published), missing

    def own_update(self) -> Update | None:
        """This party's update for the open round, as last seen in the log."""
        manifest = self._open.updates.get(self.party) if self._open else None
        return manifest.update if manifest else None

    def look(self) -> OpenRound:
        """Reads the open round anew."""
        self._open = self.view.look()
        return self._open

    def refresh(self) -> list[SealedRound]:
        """Takes in new seals; gives them in order."""
        new = self.view.refresh()
        for sealed in new:
            self._expected.sealed(sealed)
        if new:
            self.keyring.learn(self.chain.membership.handouts)
            self._open = None
            self._payloads.keep_only([each.update for each in new[-1].accepted])
        return new

    # Coming in

    def begin_session(self) -> int:
        """Says in the log that this process acts for the party; gives the session's number.

        `IdentityError` if the party is no active member.
        """
        return self._acting.begin_session(self.check_standing())

    def check_standing(self) -> Membership:
        """The membership as it is now; `IdentityError` if this party is no active member, or has
        not been given the group key."""
        self.refresh()
        membership = self.look().membership
        self._acting.check_standing(membership)
        self.keyring.learn(membership.handouts)
        self.keyring.cipher(membership.epoch)
        return membership

    def cipher_of(self, round_: int) -> GroupCipher | None:
        """For what this party writes for a round; `IdentityError` if it has not the group key."""
        return self.keyring.cipher(self.chain.epoch_of(round_))

    # Publishing

    def publish(
        self,
        payload: bytes,
        work: Work,
        *,
        base: str,
        round_: int | None = None,
        announcing: Callable[[Bulk], None] = lambda bulk: None,
    ) -> Published:
        """Announces an update for a round (else: the next to be sealed) that began from `base`;
        `announcing` is called when its bytes are stored, right before that.

        After any error it can be called again with the same bytes and goes on where it was. An
        update that this party has published for that round before stays, and is given back.
        """
        round_ = self.next_round if round_ is None else round_
        self._check_publish(payload, base, round_)
        epoch, opening_key = self.chain.epoch_of(round_), self._opening_key(round_)
        cipher = self.keyring.cipher_of(self.party, round_, opening_key, epoch)
        bulk = write_bulk(self.store, payload, cipher, MOST_UPDATE_CHUNKS)
        self._acting.check_session()
        announcing(bulk)
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
            session=self._acting.session,
            payload=bulk,
            opening_key=opening_key,
        )
        signed = self._sign(update, "update")
        read = self.view.reader_of_update(round_, self.party, self.view.look().membership)
        stem = update_stem(round_, self.party)
        manifest, is_new = self.view.log.claim(stem, "update", signed.data, read)
        if is_new:
            self._payloads.put(update, payload)
        return Published(update=manifest.update, is_new=is_new)

    def _opening_key(self, round_: int) -> str | None:
        """None under a charter whose members may not know of it."""
        if self.chain.charter.version < HIDDEN_UPDATES:
            return None
        return self.identity.opening_key(self.chain.federation, round_)

    def _check_publish(self, payload: bytes, base: str, round_: int) -> None:
        if not self.chain.membership.is_active(self.party):  # but may be from the next seal on
            self._acting.check_standing(self.view.look().membership)
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
        """Closes, reviews and seals; what a review makes possible is looked for at once."""
        fresh = self._candidates(look.updates, look.membership)
        if not self._is_closed(fresh, look.membership):
            self._fetch(fresh)
            if not self._is_closed(fresh, look.membership):
                return
        candidates = dict(fresh)
        for round_ in self.chain.candidate_rounds()[1:]:
            late = self.view.updates(round_, look.membership)
            candidates |= self._candidates(late, look.membership)
        if self._seal(look, candidates) or not self._review(look, candidates, base, judge):
            return
        self.refresh()
        if self.next_round == look.round:
            self._seal(self.look(), candidates)

    def _is_closed(self, fresh: Manifests, membership: Membership) -> bool:
        """Whether this party waits no longer; the first call in which there is a quorum starts its
        clock, so it comes before payloads are fetched."""
        return self._expected.is_closed(
            {each.update.party for each in fresh.values()},
            self.chain.needed_updates(membership),
            partial(self.view.sessions, membership),
        )

    def _fetch(self, manifests: Manifests) -> None:
        for manifest in manifests.values():
            self._payloads.of(manifest.update)

    def _candidates(
        self, manifests: Mapping[str, Manifest], membership: Membership
    ) -> dict[str, Manifest]:
        """Those that the next seal may decide, by digest."""
        return {
            each.digest: each
            for each in manifests.values()
            if self.chain.is_candidate(each.update, membership)
        }

    def _review(self, look: OpenRound, candidates: Manifests, base: str, judge: Judge) -> bool:
        """Writes this member's votes, if it is due and they say anything new; whether it did."""
        needed = self.chain.needed_reviews(look.membership)
        known = look.membership.amendments
        before = look.reviews.get(self.party)
        if before is None:
            if not self._expected.is_turn("review", needed + 1):
                return False
        elif says_all(self.chain, before, candidates, base, known):
            self._await_agreement(look, base)
            return False
        self._acting.check_session()
        reasons = verdicts(self.chain, candidates, self._payloads, base, judge)
        for digest, reason in reasons.items():
            if reason:
                self._report(f"votes against {candidates[digest].update.party}: {reason}")
        review = review_of(self.chain, self.party, base, known, reasons)
        self.view.write_review(self._sign(review, "review"), look)
        return True

    def _await_agreement(self, look: OpenRound, base: str) -> None:
        """The reviews at hand do not allow a seal. `StateDivergedError` if this party is astray: a
        single other is not believed as long as a third one may settle it."""
        needed = self.chain.needed_reviews(look.membership)
        settling = self.chain.settling_reviews(look.membership)
        is_overdue = self._expected.is_overdue("agreement")
        other = other_base(look, base, needed if is_overdue else settling)
        if other is not None:
            raise self._diverged(self.next_round, base, other)
        if is_overdue and needed <= len(look.reviews) < settling and self._told < self.next_round:
            self._told = self.next_round
            self._report(
                f"Round {self.next_round}: the reviews of {', '.join(sorted(look.reviews))} do not "
                "say the same. It waits for that of another member."
            )

    def _seal(self, look: OpenRound, candidates: Manifests) -> bool:
        """Seals if the reviews allow it and it is this party's turn; whether they allow it."""
        sealed = composed(self.chain, self.party, look, candidates)
        if sealed is None:
            return False
        if self.chain.membership.key_of(self.party) and self._expected.is_turn("seal", 1):
            self.view.write_seal(self.identity.sign(sealed.body))
            self.refresh()
        return True

    def accepted_payloads(self, sealed: SealedRound) -> list[tuple[Accepted, bytes]]:
        """What counts in a sealed round, in canonical order, with the bytes of each.

        `LogDamagedError` if the store has lost one that the reviewers had.
        """
        return self._payloads.counted(sealed)
