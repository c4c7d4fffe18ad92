"""The whole log once more, from the charter: signatures, seals, payloads, digests, ledger lines.

A **fault** says that the log does not hold: a digest that the replay does not reproduce, or a
ledger with other figures. A **finding** names a party whose word did not hold, though the others
outvoted it or its object was refused: the log is right in spite of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from motley.errors import PayloadError, VerificationError
from motley.federation.charter.messages import Update
from motley.federation.keys.identity import Identity
from motley.federation.keys.objects import canonical, digest_of
from motley.federation.log.chain import SealedRound
from motley.federation.log.keyring import Keyring
from motley.federation.log.ledger import ledger, rounds_of_csv, to_csv
from motley.federation.log.log import Refusal
from motley.federation.log.view import View
from motley.federation.party.snapshots import load_base
from motley.federation.state.comparing import Comparisons, Place
from motley.federation.state.reviewing import Candidate
from motley.federation.state.state import GlobalState
from motley.federation.state.tensors import unpack
from motley.federation.storage.bulk import read_bulk

REPEATABLE = frozenset(
    {"damaged", "malformed", "nonfinite", "oversized", "wrong_base", "wrong_epoch"}
)
"""Reasons that follow from the update's bytes and the chain, whoever looks and whenever."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A party's word that did not hold."""

    round: int
    party: str
    what: str


@dataclass
class Verification:
    """What the replay came to."""

    federation: str
    rounds: int = 0
    updates: int = 0
    """Payloads that were read and checked."""
    digests: int = 0
    """States that were computed and compared."""
    ledger_lines: int = 0
    state: str = ""
    """Digest after the last round."""
    faults: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not self.faults


def verify(
    view: View,
    identity: Identity | None = None,
    *,
    ledger_csv: str | None = None,
    cache: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Verification:
    """Replays the log; where payloads are encrypted, with the keys handed out to `identity`;
    `ledger_csv` is a ledger to check against it.

    Errors are raised only for what keeps it from going on: a charter, a base or an accepted update
    that is not in the store any more.
    """
    view.refresh()
    result = Verification(federation=view.federation)
    keyring = Keyring(view.federation, identity)
    keyring.learn(view.look().membership.handouts)
    state = load_base(view, keyring, cache)
    for sealed in view.chain.sealed:
        _replay(view, keyring, cache, state, sealed, result)
        progress(sealed.round + 1, view.chain.next_round)
    result.state = state.digest()
    _compare_open_round(view, result)
    _compare_snapshots(view, result)
    if ledger_csv is not None:
        _compare_ledger(view, ledger_csv, result)
    result.refused = list(view.log.refused)
    return result


def _replay(
    view: View,
    keyring: Keyring,
    cache: Path | None,
    state: GlobalState,
    sealed: SealedRound,
    result: Verification,
) -> None:
    result.digests += 1
    if state.digest() != sealed.base:
        result.faults.append(
            f"round {sealed.round}: the state before it has digest {state.digest()[:16]}, "
            f"the seal says {sealed.base[:16]}"
        )
    payloads = {}
    reasons = {}
    candidates = {}
    for update in sealed.updates():
        place = (update.round, update.party)
        payload, reason = _check_update(view, keyring, cache, state, sealed, update)
        payloads[place] = payload
        reasons[place] = reason
        if payload is not None and reason not in ("wrong_base", "wrong_epoch"):
            candidates[place] = Candidate(update=update, payload=payload)
        result.updates += 1
    _compare_votes(sealed, reasons, Comparisons(state, sealed.round, candidates), result)
    counted = []
    for each in sealed.accepted:
        place = (each.update.round, each.update.party)
        payload = payloads[place]
        if payload is None:
            raise VerificationError(
                f"the update of '{each.update.party}' that counts in round {sealed.round} is "
                f"{reasons[place]} in the store: the replay cannot go on.",
                remedy="Restore the store from a backup.",
            )
        counted.append((each, payload))
    state.apply(sealed, counted)
    result.rounds += 1


def _check_update(
    view: View,
    keyring: Keyring,
    cache: Path | None,
    state: GlobalState,
    sealed: SealedRound,
    update: Update,
) -> tuple[bytes | None, str]:
    """The payload if it can be had, and what is wrong with the update for whoever looks."""
    chain = view.chain
    fault = chain.own_fault(update, sealed.base)
    if fault == "wrong_epoch":
        return None, fault
    try:
        payload = read_bulk(
            view.log.store,
            update.payload,
            keyring.cipher_for(update),
            max_bytes=chain.charter.payload_bytes,
            cache=cache,
        )
    except PayloadError as refused:
        return None, refused.reason
    if fault:
        return payload, fault
    try:
        state.codec.squared_norm(unpack(payload), state.shapes_of(sealed.round))
    except PayloadError as refused:
        return payload, refused.reason
    return payload, ""


def _compare_votes(
    sealed: SealedRound, reasons: dict[Place, str], comparisons: Comparisons, result: Verification
) -> None:
    """A review that also votes on updates that the seal does not decide, or was made from another
    state, is held against the updates' own bytes alone."""
    manifests = {
        digest_of(canonical(signed)): (signed["body"]["round"], signed["body"]["party"])
        for signed in sealed.body["updates"]
    }
    for review in sealed.reviews:
        if review.base != sealed.base:
            result.findings.append(
                Finding(
                    round=sealed.round,
                    party=review.party,
                    what=f"reviewed from another state ({review.base[:16]})",
                )
            )
        votes = {manifests.get(vote.manifest): vote.reason for vote in review.votes}
        known = {place: reason for place, reason in votes.items() if place is not None}
        is_whole = len(known) == len(review.votes) and review.base == sealed.base
        compared = comparisons.right(known) if is_whole else {}
        for place, said in known.items():
            right = compared.get(place, reasons[place])
            if said != right and (place in compared or REPEATABLE & {said, right}):
                what = (
                    f"voted '{said or 'accepted'}' on the update of '{place[1]}' for round "
                    f"{place[0]}: {right or 'nothing wrong'}"
                )
                result.findings.append(Finding(round=sealed.round, party=review.party, what=what))


def _compare_open_round(view: View, result: Verification) -> None:
    """What was announced for the open round began from this state, as far as it is there."""
    for party, manifest in view.look().updates.items():
        if manifest.update.base != result.state:
            result.findings.append(
                Finding(
                    round=manifest.update.round,
                    party=party,
                    what=f"published from another state ({manifest.update.base[:16]})",
                )
            )


def _compare_snapshots(view: View, result: Verification) -> None:
    for stem, snapshot in view.all_snapshots():
        base = view.chain.base_of(snapshot.round)
        if base is None and snapshot.round == view.chain.next_round:
            base = result.state
        if snapshot.digest == base and view.is_in_epoch(snapshot):
            continue
        what = "another state" if snapshot.digest != base else "a state under another group key"
        result.findings.append(
            Finding(round=snapshot.round, party=snapshot.party, what=f"stored {what} ({stem})")
        )


def _compare_ledger(view: View, text: str, result: Verification) -> None:
    rounds = rounds_of_csv(text)
    if rounds > view.chain.next_round:
        result.faults.append(f"the ledger is of {rounds} rounds, the log has fewer")
        return
    expected = to_csv(ledger(view.chain.until(rounds)), rounds).splitlines()
    given = text.splitlines()
    result.ledger_lines = len(expected) - 1
    for line in sorted(set(expected) ^ set(given)):
        where = "not in the ledger" if line in expected else "not in the log"
        result.faults.append(f"ledger: {where}: {line}")
