"""What anybody who can read the store sees of a federation: its charter, its chain of seals and the
open round. It needs no key and writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from motley.errors import CharterError, VoidObjectError
from motley.federation.charter.charter import Charter, read_charter
from motley.federation.charter.membership import Membership
from motley.federation.charter.messages import (
    Amendment,
    Review,
    Session,
    Snapshot,
    Update,
    read_body,
)
from motley.federation.keys.objects import LARGEST_BYTES, Signed, digest_of
from motley.federation.log.chain import Chain, SealedRound
from motley.federation.log.log import (
    AMENDMENTS,
    CHARTER,
    MOST_SLOTS,
    ROUNDS,
    SEALS,
    SESSIONS,
    SNAPSHOTS,
    Log,
    Refusal,
    amendment_stem,
    review_stem,
    round_folder,
    seal_stem,
    session_stem,
    snapshot_stem,
    update_stem,
)
from motley.federation.storage.store import Store


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """An update's manifest as it lies in the log."""

    signed: Signed
    update: Update
    arrival: tuple[int, float] = (0, 0.0)
    """Orders what was seen here one after the other; of the object that counts, whatever lay in the
    slots before it."""

    @property
    def digest(self) -> str:
        return self.signed.digest


@dataclass(frozen=True, kw_only=True)
class OpenRound:
    """What the log holds of the round that is not sealed yet, by party."""

    round: int
    updates: Mapping[str, Manifest]
    reviews: Mapping[str, Signed]
    """Each member's newest review that fits the chain."""
    review_slots: Mapping[str, int]
    """Where a party's next edition can be written."""
    pending: tuple[Signed, ...] = field(default=())
    """Amendments that no seal has taken in."""
    membership: Membership
    """With the pending amendments."""


def find_charter(store: Store, fingerprint: str | None = None) -> tuple[Charter, str]:
    """The charter in a store and its digest; `CharterError` if there is none, or not that one."""
    try:
        data = store.get(CHARTER, LARGEST_BYTES["charter"])
    except VoidObjectError as cause:
        raise CharterError(f"the charter is damaged: {cause.message}.") from None
    if data is None:
        raise CharterError(
            "there is no federation in this store: it has no charter.json.",
            remedy="Check the store's address, or begin one: motley federation create.",
        )
    return read_charter(data, fingerprint)


class View:
    """A reader's picture of the log; `refresh` and `look` bring it up to date."""

    def __init__(
        self,
        store: Store,
        fingerprint: str | None = None,
        report: Callable[[Refusal], None] | None = None,
    ) -> None:
        charter, federation = find_charter(store, fingerprint)
        self.log = Log(store, report)
        self.chain = Chain(charter, federation)
        self.seal_slot = 0
        """Where the next seal can be written."""
        self.amendment_slot = 0

    @property
    def federation(self) -> str:
        return self.chain.federation

    def refresh(self) -> list[SealedRound]:
        """Takes in the seals that are new; gives them in order."""
        first = self.chain.next_round
        slots = self.log.slots(SEALS, after=seal_stem(first))
        while True:
            stem = seal_stem(self.chain.next_round)
            found = self.log.first(stem, "seal", slots.get(stem, ()), self.chain.check)
            if found.value is None:
                self.seal_slot = found.slot
                return self.chain.sealed[first:]
            self._take(stem, found.value, found.slot)

    def _take(self, stem: str, sealed: SealedRound, slot: int) -> None:
        data = [self.log.bytes_of(f"{stem}.{number}.json") or b"" for number in range(slot + 1)]
        offenders = [self.chain.offender(void) for void in data[:-1]]
        named = [name for name in offenders if name is not None]
        self.chain.append(sealed, digest_of(data[-1]), named)
        self.log.forget(stem)
        settled = self.chain.candidate_rounds()[-1] - 1
        self.log.forget(round_folder(settled))

    def look(self) -> OpenRound:
        """The open round as it is now."""
        pending, membership = self._pending()
        round_ = self.chain.next_round
        slots = self.log.slots(round_folder(round_))
        reviews = {}
        review_slots = {}
        for party in membership.standings:
            stem = review_stem(round_, party)
            found = self.log.latest(
                stem, "review", slots.get(stem, ()), self._reader_of_review(party, membership)
            )
            review_slots[party] = found.slot
            if found.value is not None:
                reviews[party] = found.value
        return OpenRound(
            round=round_,
            updates=self._updates(round_, slots, membership),
            reviews=reviews,
            review_slots=review_slots,
            pending=pending,
            membership=membership,
        )

    def updates(self, round_: int, membership: Membership) -> dict[str, Manifest]:
        """The manifests of any round, by party."""
        return self._updates(round_, self.log.slots(f"{round_folder(round_)}/updates"), membership)

    def updates_of(
        self, party: str, membership: Membership, *, besides: Collection[int]
    ) -> dict[int, Update]:
        """All updates of a party, decided or not, by round, without some rounds; lists them all."""
        slots = self.log.slots(ROUNDS)
        found = {}
        for round_ in range(self.chain.next_round + 1):
            stem = update_stem(round_, party)
            if round_ not in besides and stem in slots:
                read = self.reader_of_update(round_, party, membership)
                manifest = self.log.first(stem, "update", slots[stem], read).value
                if manifest is not None:
                    found[round_] = manifest.update
        return found

    def _updates(
        self, round_: int, slots: Mapping[str, Collection[int]], membership: Membership
    ) -> dict[str, Manifest]:
        found = {}
        for party in membership.standings:
            stem = update_stem(round_, party)
            if taken := slots.get(stem):
                read = self.reader_of_update(round_, party, membership)
                first = self.log.first(stem, "update", taken, read)
                if first.value is not None:
                    arrival = self.log.arrival(f"{stem}.{first.slot}.json")
                    found[party] = replace(first.value, arrival=arrival)
        return found

    def reader_of_update(
        self, round_: int, party: str, membership: Membership
    ) -> Callable[[bytes], Manifest]:
        """Reads what may lie in the place of a party's update."""

        def read(data: bytes) -> Manifest:
            signed = self.chain.memory.open(data, "update", membership.key_of)
            update = read_body(Update, signed, self.federation)
            if (update.round, update.party) != (round_, party):
                raise VoidObjectError("made for another place")
            return Manifest(signed=signed, update=update)

        return read

    def _reader_of_review(self, party: str, membership: Membership) -> Callable[[bytes], Signed]:
        round_, head = self.chain.next_round, self.chain.head

        def read(data: bytes) -> Signed:
            signed = self.chain.memory.open(data, "review", membership.key_of)
            review = read_body(Review, signed, self.federation)
            if (review.party, review.round, review.previous) != (party, round_, head):
                raise VoidObjectError("made for another place")
            return signed

        return read

    def write_review(self, signed: Signed, look: OpenRound) -> None:
        """A member's votes as its newest edition."""
        stem = review_stem(self.chain.next_round, signed.party)
        read = self._reader_of_review(signed.party, look.membership)
        self.log.claim(stem, "review", signed.data, read, look.review_slots[signed.party])

    def write_seal(self, signed: Signed) -> None:
        """Seals the next round, unless another valid seal is there; `refresh` takes in which."""
        stem = seal_stem(self.chain.next_round)
        self.log.claim(stem, "seal", signed.data, self.chain.check, self.seal_slot)

    def _pending(self) -> tuple[tuple[Signed, ...], Membership]:
        """The amendments behind those in force, and the membership with them."""
        membership = self.chain.membership
        slots = self.log.slots(AMENDMENTS, after=amendment_stem(membership.amendments))
        pending: list[Signed] = []
        while True:
            stem = amendment_stem(membership.amendments)
            read = self.reader_of_amendment(membership)
            found = self.log.first(stem, "amendment", slots.get(stem, ()), read)
            if found.value is None:
                self.amendment_slot = found.slot
                return tuple(pending), membership
            pending.append(found.value)
            amendment = read_body(Amendment, found.value, self.federation)
            membership = membership.amended(found.value, amendment)

    def reader_of_amendment(self, membership: Membership) -> Callable[[bytes], Signed]:
        """Reads what may be the next amendment of a membership."""

        def read(data: bytes) -> Signed:
            signed = self.chain.memory.open(data, "amendment", membership.amender_key)
            membership.amended(signed, read_body(Amendment, signed, self.federation))
            return signed

        return read

    def sessions(self, membership: Membership) -> dict[str, Session]:
        """Each party's newest session."""
        slots = self.log.slots(SESSIONS)
        newest: dict[str, Session] = {}
        for stem in sorted(slots, reverse=True):
            party = stem.split("/")[1]
            if party not in newest and party in membership.standings:
                found = self.log.first(
                    stem, "session", slots[stem], self.reader_of_session(stem, party, membership)
                )
                if found.value is not None:
                    newest[party] = found.value
        return newest

    def reader_of_session(
        self, stem: str, party: str, membership: Membership
    ) -> Callable[[bytes], Session]:
        """Reads what may lie in the place of a session."""

        def read(data: bytes) -> Session:
            signed = self.chain.memory.open(data, "session", membership.key_of)
            session = read_body(Session, signed, self.federation)
            if session.party != party or session_stem(party, session.number) != stem:
                raise VoidObjectError("made for another place")
            return session

        return read

    def all_snapshots(self) -> list[tuple[str, Snapshot]]:
        """Each stored state with its stem, as announced, the newest first."""
        slots = self.log.slots(SNAPSHOTS)
        found = []
        for stem in sorted(slots, reverse=True):
            for slot in sorted(slots[stem]):
                snapshot = self.log.read(f"{stem}.{slot}.json", "snapshot", self._read_snapshot)
                if snapshot is not None and snapshot_stem(snapshot.round) == stem:
                    found.append((stem, snapshot))
        return found

    def snapshots(self) -> list[Snapshot]:
        """The stored states whose digest and group key the chain confirms, the newest first."""
        return [
            snapshot
            for _, snapshot in self.all_snapshots()
            if self.chain.base_of(snapshot.round) == snapshot.digest and self.is_in_epoch(snapshot)
        ]

    def is_in_epoch(self, snapshot: Snapshot) -> bool:
        """Whether a stored state lies under the group key that was in force before its round."""
        is_known = snapshot.round <= self.chain.next_round
        return is_known and snapshot.state.epoch == self.chain.epoch_of(snapshot.round)

    def newest_snapshot_round(self) -> int:
        """Of the stored states, confirmed or of the open round; 0 is the charter's base."""
        rounds = [
            snapshot.round
            for _, snapshot in self.all_snapshots()
            if self.is_in_epoch(snapshot)
            and (
                self.chain.base_of(snapshot.round) == snapshot.digest
                or snapshot.round == self.chain.next_round
            )
        ]
        return max(rounds, default=0)

    def write_snapshot(self, snapshot: Snapshot, signed: Signed) -> None:
        """Names a stored state, unless one of the same digest is named already."""
        stem = snapshot_stem(snapshot.round)
        for slot in range(MOST_SLOTS):
            found, _ = self.log.claim(stem, "snapshot", signed.data, self._read_snapshot, slot)
            if (found.digest, found.state.epoch) == (snapshot.digest, snapshot.state.epoch):
                return

    def _read_snapshot(self, data: bytes) -> Snapshot:
        signed = self.chain.memory.open(data, "snapshot", self.chain.membership.key_of)
        return read_body(Snapshot, signed, self.federation)
