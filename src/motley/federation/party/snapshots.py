"""Stored states: written now and then, found and believed through their digest alone."""

from __future__ import annotations

from pathlib import Path

from motley.errors import LogDamagedError, PayloadError, StateDivergedError
from motley.federation.charter.messages import Snapshot, body_of
from motley.federation.keys.objects import digest_of
from motley.federation.log.downloads import folder_of
from motley.federation.log.keyring import Keyring
from motley.federation.log.view import View
from motley.federation.party.rounds import Member
from motley.federation.state.state import GlobalState
from motley.federation.storage.bulk import read_bulk
from motley.federation.storage.reference import Bulk

LARGEST_STATE_BYTES = 2**40


def wants_snapshot(member: Member) -> bool:
    """Whether this party should store the state before the next round now.

    The party that sealed last does it. If it is not there a round later, the first of those whose
    updates counted does, then the second after two rounds, the third after four: a large state may
    be on its way for some rounds.
    """
    chain = member.chain
    every = chain.charter.terms.round.snapshot_every
    if chain.next_round < every:
        return False
    newest = member.view.newest_snapshot_round()
    overdue = chain.next_round - newest - every
    if overdue <= 0:
        return overdue == 0 and chain.sealed[-1].party == member.party
    present = {each.update.party for each in chain.sealed[-1].accepted}
    order = sorted(present, key=lambda party: digest_of(f"{newest} {party}".encode()))
    return member.party in present and overdue >= 2 ** order.index(member.party)


def announce_snapshot(member: Member, round_: int, digest: str, bulk: Bulk) -> None:
    """Names a state that is in the store: that before a round."""
    snapshot = Snapshot(party=member.party, round=round_, digest=digest, state=bulk)
    signed = member.identity.sign(body_of(snapshot, "snapshot", member.chain.federation))
    member.view.write_snapshot(snapshot, signed)


def load_state(view: View, keyring: Keyring, cache: Path | None = None) -> tuple[int, GlobalState]:
    """The newest stored state that the chain confirms, and the round before which it was.

    `cache` is the folder of downloads. `LogDamagedError` if no stored state is whole, not even the
    base.
    """
    stored: list[tuple[int, str, Bulk]] = [
        (snapshot.round, snapshot.digest, snapshot.state) for snapshot in view.snapshots()
    ]
    base = view.chain.charter.base
    for round_, digest, bulk in [*stored, (0, base.digest, base.bulk)]:
        state = _load(view, keyring, folder_of(cache, round_), digest, bulk)
        if state is not None:
            return round_, state
    raise LogDamagedError(
        "no stored state in the log is whole.", remedy="Restore the store from a backup."
    )


def load_base(view: View, keyring: Keyring, cache: Path | None = None) -> GlobalState:
    """The state before round 0."""
    base = view.chain.charter.base
    state = _load(view, keyring, folder_of(cache, 0), base.digest, base.bulk)
    if state is None:
        raise LogDamagedError(
            "the base of the federation is not whole.", remedy="Restore the store from a backup."
        )
    return state


def _load(
    view: View, keyring: Keyring, cache: Path | None, digest: str, bulk: Bulk
) -> GlobalState | None:
    """The state in a bulk object if it has that digest."""
    store = view.log.store
    try:
        cipher = keyring.cipher(bulk.epoch)
        data = read_bulk(store, bulk, cipher, max_bytes=LARGEST_STATE_BYTES, cache=cache)
        state = GlobalState.unpack(view.chain.charter.terms, data)
    except PayloadError:
        return None
    return state if state.digest() == digest else None


def join_state(member: Member, cache: Path | None = None) -> GlobalState:
    """The state before the next round: the newest snapshot with the later rounds applied."""
    member.refresh()
    round_, state = load_state(member.view, member.keyring, cache)
    while round_ < member.next_round:
        sealed = member.chain.sealed[round_]
        state.apply(sealed, member.accepted_payloads(sealed))
        round_ += 1
        expected = member.chain.base_of(round_)
        if expected is not None and state.digest() != expected:
            raise StateDivergedError(
                f"the log replayed here gives other parameters before round {round_}.",
                remedy="Check this machine's memory, and run: motley federation verify.",
            )
        if round_ == member.next_round:
            member.refresh()
    return state
