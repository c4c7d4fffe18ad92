"""Who copies an update is named, and the one who made it never is, however fast the copier is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from federation_cases import Federation, Forwarding, Party, federation, finish_round, terms
from motley.errors import PayloadError
from motley.federation.charter.messages import Update, body_of
from motley.federation.keys.encrypt import OVERHEAD_BYTES
from motley.federation.keys.objects import digest_of
from motley.federation.log.chain import SealedRound
from motley.federation.log.log import update_stem
from motley.federation.log.view import View
from motley.federation.state.tensors import unpack
from motley.federation.storage.bulk import blob_key
from motley.federation.storage.reference import Bulk, Chunk
from motley.federation.storage.store import Entry, Store, memory_store
from motley.federation.verify import verify

COPIER, VICTIM = "a", "b"
"""In this order wherever nothing else orders them."""


class Watched(Forwarding):
    """A store in which something happens right before a manifest of the victim is written."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.before: Callable[[], None] = lambda: None

    def put_new(self, key: str, data: bytes) -> bool:
        if f"updates/{VICTIM}." in key:
            self.before()
        return super().put_new(key, data)


class WholeSeconds(Forwarding):
    """A store that dates objects no finer than to some time that they share."""

    def list(self, prefix: str, after: str = "") -> list[Entry]:
        return [Entry(each.key, 1e9) for each in super().list(prefix, after)]


def founded(store: Store | None = None) -> Federation:
    return federation("a", "b", "c", "d", chosen=terms(quorum=4, reviews=3), store=store)


def blobs(store: Store) -> set[str]:
    return {entry.key for entry in store.list("blobs")}


def update_of(made: Federation, party: str, round_: int = 0) -> Update:
    view = View(made.store)
    return view.updates(round_, view.look().membership)[party].update


def announce(made: Federation, name: str, **changes: object) -> None:
    """Whatever a member may sign as its update, whether it has made it or not."""
    update = Update(
        party=name, round=0, base=made.parties[name].state.digest(), tokens=100, steps=10,
        seconds=1.0, session=0, **changes,  # type: ignore[arg-type]
    )  # fmt: skip
    signed = made.identities[name].sign(body_of(update, "update", made.digest))
    assert made.store.put_new(f"{update_stem(0, name)}.0.json", signed.data)


def sealed_by(made: Federation, publishers: str) -> SealedRound:
    for name in publishers:
        made.parties[name].publish()
    return finish_round(list(made.parties.values()), made.clock)[0]


def check(made: Federation, sealed: SealedRound, reason: str) -> None:
    """The copier alone is refused, and the replay finds the same."""
    rejected = [(each.update.party, each.reason) for each in sealed.rejected]
    assert rejected == [(COPIER, reason)]
    assert sealed.strikes() == [COPIER]
    assert [each.update.party for each in sealed.accepted] == ["b", "c", "d"]
    result = verify(View(made.store))
    assert result.holds
    assert not result.findings


@pytest.mark.parametrize("has_key", [False, True])
def test_who_announces_the_chunks_of_another_before_that_one_does_is_named(has_key: bool) -> None:
    watched = Watched(memory_store())
    made = founded(watched)
    before = blobs(made.store)
    key = made.identities[COPIER].opening_key(made.digest, 0) if has_key else None

    def frame() -> None:
        """All that is there of the victim's update at that time."""
        watched.before = lambda: None
        (blob,) = blobs(made.store) - before
        digest = blob.split("/")[-1].split(".")[0]
        data = made.store.get(blob, 2**24)
        assert data is not None
        with pytest.raises(PayloadError):
            unpack(data)
        size = len(data) - OVERHEAD_BYTES if has_key else len(data)
        bulk = Bulk(bytes=size, chunks=(Chunk(digest=digest, bytes=len(data)),))
        assert blob == blob_key(digest, 0)
        announce(made, COPIER, payload=bulk, opening_key=key)
        for name in "cd":  # have seen it before the victim's
            made.parties[name].member.look()

    watched.before = frame
    check(made, sealed_by(made, "bcd"), "damaged" if has_key else "malformed")


def test_chunks_open_in_no_manifest_but_their_own() -> None:
    made = founded()
    made.parties[VICTIM].publish()
    stolen = update_of(made, VICTIM)
    assert stolen.opening_key is not None
    announce(made, COPIER, payload=stolen.payload, opening_key=stolen.opening_key)
    check(made, sealed_by(made, "cd"), "damaged")


def test_a_slot_taken_in_advance_makes_no_update_older() -> None:
    made = founded()
    assert made.store.put_new(f"{update_stem(0, COPIER)}.0.json", b"nothing yet")
    for each in made.parties.values():
        each.member.look()
    victim = made.parties[VICTIM]
    copied = victim.payload()
    victim.publish(payload=copied)
    for name in "cd":
        made.parties[name].member.look()
    made.parties[COPIER].publish(payload=copied)
    check(made, sealed_by(made, "cd"), "copied")


def test_copies_of_one_time_cost_nobody_a_strike() -> None:
    """Seen in one look, and dated alike by the store: nobody can say who was first."""
    made = founded(WholeSeconds(memory_store()))
    copied = made.parties[VICTIM].payload()
    for name in (VICTIM, COPIER):
        made.parties[name].publish(payload=copied)
    sealed = sealed_by(made, "cd")
    assert [each.reason for each in sealed.rejected] == ["disputed"]
    assert sealed.strikes() == []
    result = verify(View(made.store))
    assert result.holds
    assert not result.findings


def test_an_upload_of_an_earlier_process_is_gone_on_with() -> None:
    made = founded()
    payload = made.parties["b"].payload()
    made.parties["b"].publish(payload=payload)
    before = blobs(made.store)
    again: Party = made.party("b")
    published = again.publish(payload=payload)
    assert not published.is_new
    assert blobs(made.store) == before
    keys = {
        made.identities[name].opening_key(made.digest, round_) for name in "ab" for round_ in (0, 1)
    }
    assert len(keys | {digest_of(b"")}) == 5


def test_updates_under_an_older_charter_are_as_they_were() -> None:
    made = founded()
    for each in made.parties.values():
        chain = each.member.chain
        chain.charter = dataclasses.replace(chain.charter, version=1)
    sealed = sealed_by(made, "abcd")
    assert len(sealed.accepted) == 4
    assert {each.update.opening_key for each in sealed.accepted} == {None}
    assert verify(View(made.store)).holds
