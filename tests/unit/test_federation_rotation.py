"""The group key among its members: who is handed it, who is not, and what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from federation_cases import Federation, Party, federation, identity, terms
from motley.errors import IdentityError, PayloadError, VoidObjectError
from motley.federation.amending import amend
from motley.federation.charter.charter import Charter
from motley.federation.charter.messages import Amendment, Snapshot, body_of
from motley.federation.keys.agreement import Sender, _to_x25519
from motley.federation.keys.encrypt import GroupCipher, new_group_key, update_cipher
from motley.federation.keys.handout import Handout, check_of, hand_out
from motley.federation.keys.identity import Identity, new_identity
from motley.federation.log.keyring import Keyring
from motley.federation.log.log import amendment_stem
from motley.federation.log.view import View
from motley.federation.party.snapshots import announce_snapshot, join_state
from motley.federation.storage.bulk import read_bulk, write_bulk
from motley.federation.verify import verify


def view_of(made: Federation) -> View:
    view = View(made.store)
    view.refresh()
    return view


def keys_of(made: Federation, who: Identity) -> Keyring:
    """All that a party can get at, pending amendments included."""
    keyring = Keyring(made.digest, who)
    keyring.learn(view_of(made).look().membership.handouts)
    return keyring


def read_update(made: Federation, party: str, round_: int, keyring: Keyring) -> bytes:
    view = view_of(made)
    update = view.updates(round_, view.chain.membership)[party].update
    cipher = keyring.cipher_for(update)
    return read_bulk(made.store, update.payload, cipher, max_bytes=2**20)


def store_state(party: Party, cipher: GroupCipher | None = None) -> Snapshot:
    member, round_ = party.member, party.member.next_round
    bulk = write_bulk(member.store, party.state.pack(), cipher or member.cipher_of(round_))
    announce_snapshot(member, round_, party.state.digest(), bulk)
    return member.view.all_snapshots()[0][1]


# Sealed for one party


@given(st.binary(min_size=1, max_size=64))
def test_only_its_receiver_opens_what_was_sealed_at_its_place(text: bytes) -> None:
    sender = Sender()
    sealed = sender.seal(text, identity("a").public_key, b"here")
    assert identity("a").open(sealed, sender.public_key, b"here") == text
    assert identity("b").open(sealed, sender.public_key, b"here") is None
    assert identity("a").open(sealed, sender.public_key, b"there") is None
    assert identity("a").open(sealed, Sender().public_key, b"here") is None
    assert identity("a").open(sealed[:-1], sender.public_key, b"here") is None


def test_an_ed25519_key_is_the_x25519_key_that_others_make_of_it() -> None:
    """RFC 7748 (4.1) gives the base points of both curves; libsodium's conversion is checked by its
    own test key (test/default/ed25519_convert.c)."""
    base = (4 * pow(5, -1, 2**255 - 19) % (2**255 - 19)).to_bytes(32, "little").hex()
    assert _to_x25519(base).public_bytes_raw() == (9).to_bytes(32, "little")
    for _ in range(20):
        party = new_identity("a")
        secret = hashlib.sha512(party._key.private_bytes_raw()).digest()[:32]
        public = X25519PrivateKey.from_private_bytes(secret).public_key()
        assert _to_x25519(party.public_key).public_bytes_raw() == public.public_bytes_raw()


@pytest.mark.parametrize("public_key", ["0" * 64, "01" + "0" * 62, "ec" + "ff" * 30 + "7f"])
def test_nothing_is_sealed_for_a_key_of_small_order(public_key: str) -> None:
    with pytest.raises(IdentityError, match="nothing can be encrypted"):
        Sender().seal(b"text", public_key, b"here")


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": -1},
        {"check": "0" * 63},
        {"check": "G" * 64},
        {"sender": "x"},
        {"sealed": {"a": "00"}},
        {"sealed": {"A": "0" * 96}},
        {"previous": "0" * 94},
    ],
)
def test_a_handout_of_another_form_is_none(change: dict[str, Any]) -> None:
    handout = hand_out(new_group_key(), 0, {"a": identity("a").public_key}, "place")
    with pytest.raises(ValueError, match=r"epoch|handout|public_key|name"):
        dataclasses.replace(handout, **change)


# In the log


def test_payloads_are_encrypted_and_only_members_read_them() -> None:
    made = federation("a", "b", encrypted=True)
    made.run_round()
    made.run_round()
    blobs = [made.store.get(each.key, 2**24) for each in made.store.list("blobs")]
    assert all(blob is not None and b"weight" not in blob for blob in blobs)
    assert verify(View(made.store), made.identities["a"]).holds
    assert verify(View(made.store), made.founder).holds
    with pytest.raises(IdentityError, match="only its members can replay"):
        verify(View(made.store))
    with pytest.raises(IdentityError, match="'x' has not been given the group key of epoch 0"):
        verify(View(made.store), identity("x"))


def test_who_is_removed_reads_nothing_that_is_written_after_the_seal() -> None:
    made = federation("a", "b", "c", encrypted=True)
    made.run_round()
    amend(View(made.store), made.founder, "remove", "c")
    made.run_round()
    gone = made.parties.pop("c")
    made.run_round("a", "b")
    snapshot = store_state(made.parties["a"])
    keyring = keys_of(made, gone.member.identity)
    assert read_update(made, "a", 1, keyring)
    with pytest.raises(IdentityError, match="has not been given the group key of epoch 1"):
        read_update(made, "a", 2, keyring)
    with pytest.raises(IdentityError, match="'c' has not been given"):
        keyring.cipher(snapshot.state.epoch)
    with pytest.raises(IdentityError, match="'c' has not been given"):
        verify(View(made.store), gone.member.identity)
    update = view_of(made).updates(2, made.parties["a"].member.chain.membership)["a"].update
    assert update.opening_key is not None
    stolen = update_cipher(update.opening_key, "a", 2, keyring.key(0), 1)
    with pytest.raises(PayloadError, match="cannot be decrypted"):
        read_bulk(made.store, update.payload, stolen, max_bytes=2**20)
    assert verify(View(made.store), made.identities["b"]).holds


def test_verify_replays_over_rotations_with_the_newest_key_alone() -> None:
    made = federation("a", "b", encrypted=True)
    for _ in range(3):
        made.run_round()
        amend(View(made.store), made.founder, "rotate")
    amend(View(made.store), made.founder, "admit", "c", identity("c").public_key)
    made.run_round()
    result = verify(View(made.store), identity("c"))
    assert (result.holds, result.findings, result.rounds) == (True, [], 4)
    epochs = [made.parties["a"].member.chain.epoch_of(round_) for round_ in range(5)]
    assert epochs == [0, 0, 1, 2, 3]
    assert len(keys_of(made, identity("c"))._keys) == 4


def test_who_is_admitted_joins_at_once_and_reads_what_was_before() -> None:
    made = federation("a", "b", encrypted=True)
    made.run_round()
    amend(View(made.store), made.founder, "rotate")
    made.run_round()
    store_state(made.parties["a"])
    amend(View(made.store), made.founder, "admit", "c", identity("c").public_key)
    made.identities["c"] = identity("c")
    assert made.party("c").state.digest() == made.parties["a"].state.digest()
    made.run_round()
    assert made.party("c").state.digest() == made.parties["b"].state.digest()


def test_who_comes_back_is_handed_the_key_that_is_in_force_then() -> None:
    made = federation("a", "b", "c", encrypted=True)
    amend(View(made.store), made.founder, "remove", "c")
    made.run_round("a", "b")
    with pytest.raises(IdentityError, match="'c' was removed"):
        made.party("c")
    amend(View(made.store), made.founder, "readmit", "c")
    made.run_round("a", "b")
    made.party("c")
    made.run_round()
    assert made.parties["c"].state.digest() == made.parties["a"].state.digest()


def test_a_party_without_the_new_key_hears_so_and_blames_nobody() -> None:
    """The founder seals rubbish for one member: that one alone stops, until a rotation mends it."""
    made = federation("a", "b", "c", encrypted=True)
    view = view_of(made)
    membership = view.look().membership
    broken = hand_out(
        new_group_key(),
        1,
        membership.key_holders(),
        made.digest,
        before=bytes(32),
    )
    broken = dataclasses.replace(broken, sealed={**broken.sealed, "c": "0" * 96})
    amendment = Amendment(
        party="founder", number=0, previous=membership.head, action="rotate", handout=broken
    )
    signed = made.founder.sign(body_of(amendment, "amendment", made.digest))
    made.store.put_new(f"{amendment_stem(0)}.0.json", signed.data)
    made.run_round()
    with pytest.raises(
        IdentityError, match=r"'c' has not been given .* it has that of epoch 0"
    ) as e:
        made.parties["c"].publish()
    assert "motley federation rotate" in e.value.remedy
    with pytest.raises(IdentityError, match="epoch 1"):
        made.party("c")
    made.run_round("a", "b")
    assert [each.reason for s in made.parties["a"].member.chain.sealed for each in s.rejected] == []
    amend(View(made.store), made.founder, "rotate")
    made.run_round("a", "b")
    assert keys_of(made, made.identities["c"])._keys.keys() == {0, 1, 2}


def replayed(made: Federation, name: str, epoch: int | None) -> None:
    """A party's update under another key than that in force."""
    party = made.parties[name]
    cipher = None if epoch is None else GroupCipher(party.member.keyring.key(epoch), epoch)
    right = party.member.keyring.cipher_of
    party.member.keyring.cipher_of = lambda *_: cipher  # type: ignore[method-assign]
    party.publish()
    party.member.keyring.cipher_of = right  # type: ignore[method-assign]


@pytest.mark.parametrize("epoch", [0, None])
def test_an_update_under_an_old_key_is_refused_and_named(epoch: int | None) -> None:
    made = federation("a", "b", "c", encrypted=True)
    amend(View(made.store), made.founder, "rotate")
    made.run_round()
    replayed(made, "c", epoch)
    made.parties["a"].publish()
    made.parties["b"].publish()
    sealed = made.run_round(publish=False)[0]
    assert [(each.update.party, each.reason) for each in sealed.rejected] == [("c", "wrong_epoch")]
    assert sealed.strikes() == ["c"]
    assert verify(View(made.store), made.identities["a"]).holds


def test_an_epoch_where_nothing_is_encrypted_is_refused() -> None:
    made = federation("a", "b", "c")
    party = made.parties["c"]
    sealing = GroupCipher(bytes(32))
    party.member.keyring.cipher_of = lambda *_: sealing  # type: ignore[method-assign]
    party.publish()
    made.parties["a"].publish()
    made.parties["b"].publish()
    sealed = made.run_round("a", "b", publish=False)[0]
    assert [each.reason for each in sealed.rejected] == ["wrong_epoch"]


def test_a_late_update_lies_under_the_key_of_its_own_round() -> None:
    made = federation("a", "b", "c", encrypted=True)
    amend(View(made.store), made.founder, "rotate")
    late = made.parties["c"]
    made.run_round("a", "b")
    late.publish()
    sealed = made.run_round("a", "b")[0]
    assert [(each.update.party, each.update.round) for each in sealed.accepted] == [
        ("c", 0), ("a", 1), ("b", 1),
    ]  # fmt: skip
    assert [each.update.payload.epoch for each in sealed.accepted] == [0, 1, 1]


def test_a_state_stored_under_an_old_key_is_not_taken_and_named() -> None:
    made = federation("a", "b", encrypted=True, chosen=terms(snapshot_every=1))
    amend(View(made.store), made.founder, "rotate")
    made.run_round()
    party = made.parties["a"]
    store_state(party, GroupCipher(party.member.keyring.key(0), 0))
    made.run_round()
    assert made.parties["b"].member.view.snapshots() == []
    assert join_state(made.parties["b"].member).digest() == party.state.digest()
    findings = verify(View(made.store), made.identities["b"]).findings
    assert [(each.party, each.what) for each in findings] == [
        ("a", "stored a state under another group key (snapshots/00000001)")
    ]


# What is no amendment of the group key


def forged(made: Federation, **change: Any) -> str:
    """Why a rotation that is changed so is void."""
    view = view_of(made)
    membership = view.look().membership
    keyring = keys_of(made, made.founder)
    epoch = membership.epoch or 0
    next_key = new_group_key()
    handout = hand_out(
        next_key, epoch + 1, membership.key_holders(), made.digest, keyring.key(epoch)
    )
    fields = {"action": "rotate", "handout": handout, **change}
    for name, value in list(fields.items()):
        if name in ("epoch", "check", "sealed", "previous"):
            fields["handout"] = dataclasses.replace(handout, **{name: value})
            del fields[name]
    amendment = Amendment(
        party="founder", number=membership.amendments, previous=membership.head, **fields
    )
    signed = made.founder.sign(body_of(amendment, "amendment", made.digest))
    with pytest.raises(VoidObjectError) as caught:
        view.reader_of_amendment(membership)(signed.data)
    return caught.value.message


def test_rotations_that_are_void() -> None:
    made = federation("a", "b", encrypted=True)
    due = "does not hand out the group key to whom it is due"
    full = hand_out(new_group_key(), 1, {"a": identity("a").public_key}, made.digest, bytes(32))
    assert forged(made, epoch=0) == due
    assert forged(made, epoch=2) == due
    assert forged(made, sealed=full.sealed) == due
    assert forged(made, previous=None) == due
    assert forged(made, check=check_of(keys_of(made, made.founder).key(0))) == due
    assert forged(made, handout=None) == "hands out no group key"
    assert forged(made, action="remove", name="b") == due
    assert forged(made, action="admit", name="c", public_key=identity("c").public_key) == due
    plain = federation("a", "b")
    where = "hands out a group key where nothing is encrypted"
    view = view_of(plain)
    for handout in (full, None):
        amendment = Amendment(
            party="founder", number=0, previous=plain.digest, action="rotate", handout=handout
        )
        signed = plain.founder.sign(body_of(amendment, "amendment", plain.digest))
        with pytest.raises(VoidObjectError, match=where):
            view.reader_of_amendment(view.chain.membership)(signed.data)


def test_a_rotation_copied_from_another_federation_is_void() -> None:
    made = federation("a", "b", encrypted=True)
    other = federation("a", "b", encrypted=True, chosen=terms(grace_s=11.0))
    signed = amend(View(other.store), other.founder, "rotate")
    key = f"{amendment_stem(0)}.0.json"
    made.store.put_new(key, other.store.get(key, 2**21) or b"")
    assert signed.handout is not None
    assert made.parties["a"].member.look().pending == ()
    assert signed.handout.key_of(identity("a"), made.digest) is None


def test_of_two_who_rotate_at_once_both_hold_one_after_the_other() -> None:
    made = federation("a", "b", encrypted=True)
    first, second = View(made.store), View(made.store)
    first.refresh()
    second.refresh()
    stale = second.look()
    assert stale.pending == ()
    epochs = [
        amendment.handout.epoch
        for amendment in (
            amend(first, made.founder, "rotate"),
            amend(second, made.founder, "rotate"),
        )
        if amendment.handout
    ]
    assert epochs == [1, 2]
    made.run_round()
    assert made.parties["b"].member.chain.epoch_of(1) == 2
    made.run_round()
    assert verify(View(made.store), made.identities["b"]).holds


def charter_of(made: Federation) -> Charter:
    return view_of(made).chain.charter


@pytest.mark.parametrize("change", ["none", "epoch", "holders"])
def test_a_charter_that_hands_out_its_key_wrongly_is_none(change: str) -> None:
    charter = charter_of(federation("a", "b", encrypted=True))
    handout = charter.handout
    assert handout is not None
    wrong: dict[str, Handout | None] = {
        "none": None,
        "epoch": dataclasses.replace(handout, epoch=1),
        "holders": dataclasses.replace(handout, sealed={"a": handout.sealed["a"]}),
    }
    with pytest.raises(ValueError, match="handout"):
        dataclasses.replace(charter, handout=wrong[change])
