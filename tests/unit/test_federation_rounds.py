"""Rounds among honest, slow, late, absent, new and dishonest parties."""

from __future__ import annotations

import copy
import dataclasses
from contextlib import suppress
from typing import Any, Literal

import pytest
import torch

from federation_cases import (
    Federation,
    Forwarding,
    Party,
    federation,
    finish_round,
    identity,
    terms,
)
from motley.errors import (
    IdentityError,
    PayloadError,
    StateDivergedError,
    StoreUnreachableError,
    VoidObjectError,
)
from motley.federation.amending import amend
from motley.federation.charter.membership import Membership
from motley.federation.charter.messages import Review, Vote, body_of
from motley.federation.keys.objects import digest_of
from motley.federation.log.chain import SealedRound, compose
from motley.federation.log.ledger import ledger, to_csv
from motley.federation.log.log import review_stem, seal_stem
from motley.federation.log.view import View
from motley.federation.party.snapshots import announce_snapshot, join_state, wants_snapshot
from motley.federation.state.reviewing import composed
from motley.federation.state.tensors import pack
from motley.federation.storage.bulk import write_bulk
from motley.federation.storage.store import Entry
from motley.federation.verify import verify


def store_state(party: Party) -> None:
    """The party's state before the next round, as its correspondence stores it."""
    member, state = party.member, party.state
    bulk = write_bulk(member.store, state.pack(), member.cipher_of(member.next_round))
    announce_snapshot(member, member.next_round, state.digest(), bulk)


def membership_of(made: Federation) -> Membership:
    view = View(made.store)
    view.refresh()
    return view.chain.membership


def standing(made: Federation, name: str) -> tuple[bool, int]:
    members = membership_of(made)
    return members.is_active(name), members.standings[name].strikes


def test_all_reach_the_same_bits_and_the_log_says_so() -> None:
    made = federation("a", "b", "c")
    for _ in range(4):
        made.run_round()
        assert len({party.state.digest() for party in made.parties.values()}) == 1
    result = verify(View(made.store))
    assert (result.holds, result.rounds, result.updates) == (True, 4, 12)
    assert result.state == made.parties["a"].state.digest()


def test_a_dead_party_costs_the_grace_time_for_three_rounds_only() -> None:
    made = federation("a", "b", "c")
    made.run_round()
    waited = []
    for _ in range(5):
        began = made.clock.now_s
        made.run_round("a", "b")
        waited.append(made.clock.now_s - began)
    grace_s = 10.0
    assert all(seconds <= grace_s for seconds in waited)
    assert waited[0] >= 0.8 * grace_s
    assert waited[-1] <= 2.0


def test_a_late_update_counts_in_a_later_round() -> None:
    made = federation("a", "b", "c", chosen=terms(staleness=1))
    slow = made.parties["c"]
    late_work = slow.payload()
    made.run_round("a", "b")
    published = slow.publish(payload=late_work)
    assert published.update.round == 0
    slow.advance()
    sealed = made.run_round()[0]
    assert [(each.update.round, each.update.party) for each in sealed.accepted] == [
        (0, "c"), (1, "a"), (1, "b"), (1, "c"),
    ]  # fmt: skip
    assert verify(View(made.store)).holds


def test_an_update_that_is_too_late_counts_nowhere() -> None:
    made = federation("a", "b", "c", chosen=terms(staleness=1))
    late = made.parties["c"]
    for _ in range(2):
        made.run_round("a", "b")
    late.publish()
    sealed = made.run_round("a", "b")[0]
    assert {each.party for each in sealed.updates()} == {"a", "b"}


def test_fragments_take_turns_and_late_work_waits_for_its_fragment() -> None:
    made = federation("a", "b", "c", chosen=terms(fragments=2, staleness=1))
    names = [made.parties["a"].state.names(round_) for round_ in range(3)]
    assert names[0] == names[2] != names[1]
    slow = made.parties["c"]
    late_work = slow.payload()
    made.run_round("a", "b")
    slow.publish(payload=late_work)
    slow.advance()
    rounds = [made.run_round()[0] for _ in range(2)]
    assert [len(sealed.accepted) for sealed in rounds] == [3, 4]
    assert verify(View(made.store)).holds


def test_weights_are_tokens_up_to_a_multiple_of_the_median() -> None:
    made = federation("a", "b", "c")
    for name, tokens in (("a", 10), ("b", 20), ("c", 10_000)):
        made.parties[name].publish(tokens)
    sealed = finish_round(list(made.parties.values()), made.clock)[0]
    assert [each.weight for each in sealed.accepted] == [10, 20, 160]


def test_a_party_publishes_once_a_round() -> None:
    made = federation("a", "b")
    first = made.parties["a"].publish(100)
    again = made.party("a").publish(200)
    assert (first.is_new, again.is_new) == (True, False)
    assert again.update == first.update


def test_of_two_processes_with_one_key_the_newer_goes_on() -> None:
    made = federation("a", "b")
    old = made.parties["a"]
    new = made.party("a")
    with pytest.raises(IdentityError, match="another process acts for 'a'"):
        old.publish()
    new.publish()
    made.parties["b"].publish()
    assert len(finish_round([new, made.parties["b"]], made.clock)) == 2


def test_joining_from_a_snapshot_and_the_rounds_after_it() -> None:
    made = federation("a", "b", chosen=terms(snapshot_every=2))
    for _ in range(5):
        made.run_round()
        for party in made.parties.values():
            if wants_snapshot(party.member):
                store_state(party)
    view = View(made.store)
    view.refresh()
    assert [snapshot.round for snapshot in view.snapshots()] == [4, 2]
    amend(view, made.founder, "admit", "c", identity("c").public_key)
    made.identities["c"] = identity("c")
    new = made.party("c")
    assert new.state.digest() == made.parties["a"].state.digest()
    assert len(made.run_round()[0].accepted) == 3
    assert membership_of(made).is_active("c")


def test_a_state_that_is_slow_to_come_is_not_sent_by_all_at_once() -> None:
    made = federation("a", "b", "c", "d", "e", chosen=terms(snapshot_every=1, quorum=5))
    sending = []
    for _ in range(5):
        made.run_round()
        sending.append({n for n, each in made.parties.items() if wants_snapshot(each.member)})
    assert [len(names) for names in sending] == [1, 1, 2, 2, 3]
    assert sending[1] <= sending[2] == sending[3] <= sending[4]


def test_a_false_snapshot_is_not_believed() -> None:
    made = federation("a", "b", chosen=terms(snapshot_every=1))
    made.run_round()
    liar = made.parties["a"]
    next(iter(liar.state.parameters.values())).add_(1)
    liar.state._digests.clear()
    store_state(liar)
    liar.state = join_state(liar.member)
    made.run_round()
    assert join_state(made.parties["b"].member).digest() == made.parties["b"].state.digest()
    assert [each.party for each in verify(View(made.store)).findings] == ["a"]


def test_a_diverged_party_notices_before_and_after_it_publishes() -> None:
    made = federation("a", "b", "c")
    made.run_round()
    odd = made.parties["c"]
    next(iter(odd.state.parameters.values())).add_(1)
    odd.state._digests.clear()
    for party in made.parties.values():
        party.publish()
    finish_round([made.parties["a"], made.parties["b"]], made.clock)
    with pytest.raises(StateDivergedError, match="'c' before round 1"):
        odd.advance()
    view = View(made.store)
    view.refresh()
    (rejected,) = view.chain.sealed[1].rejected
    assert (rejected.update.party, rejected.reason) == ("c", "wrong_base")
    odd.round = 0
    with pytest.raises(StateDivergedError, match="before round 0"):
        odd.publish()
    again = made.party("c")
    assert again.state.digest() == made.parties["a"].state.digest()


def poisoned(party: Party) -> bytes:
    return party.payload(scale=100.0)


def test_three_strikes_suspend_and_an_amendment_readmits() -> None:
    made = federation("a", "b", "c", "d", chosen=terms(reviews=2))
    bad = made.parties["d"]
    for strikes in range(1, 4):
        bad.publish(payload=poisoned(bad))
        for name in ("a", "b", "c"):
            made.parties[name].publish()
        sealed = finish_round(list(made.parties.values()), made.clock)[0]
        assert [(r.update.party, r.reason) for r in sealed.rejected] == [("d", "outlier")]
        assert standing(made, "d") == (strikes < 3, strikes)
    with pytest.raises(IdentityError, match="suspended"):
        bad.publish()
    with pytest.raises(IdentityError, match="suspended"):
        made.party("d")
    amend(View(made.store), made.founder, "readmit", "d")
    del made.parties["d"]
    made.run_round()
    assert standing(made, "d") == (True, 0)
    made.party("d")
    assert len(made.run_round()[0].accepted) == 4
    assert verify(View(made.store)).holds


def test_a_removed_party_counts_no_more() -> None:
    made = federation("a", "b", "c")
    made.parties["c"].publish()
    amend(View(made.store), made.founder, "remove", "c")
    sealed = made.run_round("a", "b")[0]
    assert {each.party for each in sealed.updates()} == {"a", "b"}
    with pytest.raises(IdentityError, match="was removed from"):
        made.party("c")


def test_a_readmitted_party_is_awaited_and_publishes_at_once() -> None:
    """Who is left cannot seal without it, so it must not have to wait for a seal."""
    made = federation("a", "b")
    amend(View(made.store), made.founder, "remove", "b")
    assert len(made.run_round("a")[0].accepted) == 1
    amend(View(made.store), made.founder, "readmit", "b")
    alone = made.parties["a"]
    alone.publish()
    assert alone.advance() is None
    assert alone.member.lacking() == (1, ["b"])
    del made.parties["b"]
    back = made.party("b")
    back.publish()
    sealed = finish_round([alone, back], made.clock)
    assert {each.party for each in sealed[0].updates()} == {"a", "b"}
    assert verify(View(made.store)).holds


@pytest.mark.parametrize(
    ("who", "action", "name", "message"),
    [
        ("a", "remove", "b", "may not amend"),
        ("founder", "readmit", "nobody", "never admitted"),
        ("founder", "admit", "b", "admitted before"),
    ],
)
def test_amendments_that_cannot_be_made(who: str, action: Any, name: str, message: str) -> None:
    made = federation("a", "b")
    key = identity("x").public_key if action == "admit" else None
    with pytest.raises(IdentityError, match=message):
        amend(View(made.store), identity(who), action, name, key)


def test_a_stranger_and_a_wrong_key_cannot_act() -> None:
    made = federation("a", "b")
    made.identities["x"] = identity("x")
    with pytest.raises(IdentityError, match="'x' is no member") as caught:
        made.party("x")
    assert identity("x").public_key in caught.value.remedy
    made.identities["a"] = type(identity("x"))("a", identity("x")._key)
    with pytest.raises(IdentityError, match="another key"):
        made.party("a")


def test_an_update_larger_than_allowed_is_not_even_sent() -> None:
    made = federation("a", "b")
    party = made.parties["a"]
    with pytest.raises(PayloadError, match="the charter allows"):
        party.publish(payload=bytes(party.member.chain.charter.payload_bytes + 1))


# Dishonest members


class Liar(Party):
    """Votes against all but itself."""

    def judge(self, round_: int, candidates: Any) -> list[str]:
        return ["" if each.update.party == self.name else "outlier" for each in candidates]


def test_a_dishonest_reviewer_is_outvoted_and_named() -> None:
    made = federation("a", "b", "c", "d", chosen=terms(quorum=3, reviews=3))
    made.parties["a"] = Liar(made.store, identity("a"), made.clock)
    for _ in range(3):
        for sealed in made.run_round():
            assert "a" in {review.party for review in sealed.reviews}
            assert len(sealed.accepted) == 4
    result = verify(View(made.store))
    assert result.holds
    assert [(each.round, each.party) for each in result.findings] == [
        (round_, "a") for round_ in range(3) for _ in "bcd"
    ]


USUAL = terms(reviews=None)
"""As a founder has them who says nothing of reviews."""


@pytest.mark.parametrize("name", ["a", "e"])
@pytest.mark.parametrize("others", ["bc", "bcd", "bcdf", "bcdfg"])
def test_with_the_usual_terms_a_dishonest_reviewer_decides_nothing(name: str, others: str) -> None:
    made = federation(name, *others, chosen=USUAL)
    made.parties[name] = Liar(made.store, identity(name), made.clock)
    for _ in range(8):
        (sealed, *_) = made.run_round()
        assert {each.update.party for each in sealed.accepted} == {name, *others}
    assert {finding.party for finding in verify(View(made.store)).findings} <= {name}


def test_with_the_usual_terms_two_that_agree_go_on_without_the_third() -> None:
    made = federation("a", "b", "c", chosen=USUAL)
    made.run_round()
    for _ in range(3):
        (sealed, *_) = made.run_round("a", "b")
        assert len(sealed.accepted) == 2
    amend(View(made.store), made.founder, "remove", "c")
    assert len(made.run_round("a", "b")[0].accepted) == 2


def test_two_that_do_not_agree_wait_for_the_third_and_say_so() -> None:
    made = federation("a", "b", "c", chosen=USUAL)
    made.run_round()
    made.parties["a"] = Liar(made.store, identity("a"), made.clock)
    present = [made.parties[name] for name in "ab"]
    for party in present:
        party.publish()
    with pytest.raises(AssertionError, match="wait still"):
        finish_round(present, made.clock)
    told = [text for text in present[1].said if "do not say the same" in text]
    assert told == [
        "Round 1: the reviews of a, b do not say the same. It waits for that of another member."
    ]
    sealed = finish_round([*present, made.parties["c"]], made.clock)[0]
    assert {each.update.party for each in sealed.accepted} == {"a", "b"}


def reviewed(made: Federation) -> tuple[Party, dict[str, Any], dict[str, Any]]:
    """A party, and the reviews and manifests of a round that nobody has sealed."""
    store = WithoutSeals(made.store)
    for name, each in made.parties.items():
        made.parties[name] = type(each)(store, made.identities[name], made.clock)
    for party in made.parties.values():
        party.publish()
    for _ in range(30):
        for party in made.parties.values():
            with suppress(StoreUnreachableError):
                party.advance()
        made.clock.wait(1)
    party = made.parties["a"]
    look = party.member.look()
    return party, dict(look.reviews), {m.digest: m.signed for m in look.updates.values()}


def test_a_dishonest_sealer_cannot_seal_with_its_own_word_and_one_other() -> None:
    """Neither by votes against the others nor by leaving theirs out."""
    made = federation("a", "b", "c", "d", "e", chosen=USUAL)
    made.parties["a"] = Liar(made.store, identity("a"), made.clock)
    party, reviews, manifests = reviewed(made)
    chain, others = party.member.chain, sorted(reviews.keys() - {"a"})
    lies = reviews["a"].body
    few = {**lies, "votes": [vote for vote in lies["votes"] if not vote["reason"]]}
    for mine in (reviews["a"], identity("a").sign(few)):
        with pytest.raises(VoidObjectError, match="do not say the same"):
            compose(chain, "a", (), [mine, reviews[others[0]]], manifests)
        third = [mine, *(reviews[name] for name in others[:2])]
        assert len(compose(chain, "a", (), third, manifests).accepted) == 5
    honest = [reviews[name] for name in others[:2]]
    assert len(compose(chain, "a", (), honest, manifests).accepted) == 5


@pytest.mark.parametrize(("version", "decided"), [(1, 5), (2, 4)])
def test_a_tie_is_no_verdict_while_a_cited_reviewer_has_not_seen_the_update(
    version: Literal[1, 2], decided: int
) -> None:
    """In a charter of version 1 it is, as it was when its rounds were sealed."""
    made = federation("a", "b", "c", "d", "e", chosen=terms(quorum=3, reviews=3))
    made.parties["a"] = Liar(made.store, identity("a"), made.clock)
    party, reviews, manifests = reviewed(made)
    chain, (first, second, *_) = party.member.chain, sorted(reviews.keys() - {"a"})
    chain.charter = dataclasses.replace(chain.charter, version=version)
    body = reviews[second].body
    unseen = {**body, "votes": body["votes"][:-1]}
    cited = [reviews["a"], reviews[first], identity(second).sign(unseen)]
    sealed = compose(chain, "a", (), cited, manifests)
    assert len(sealed.updates()) == decided
    assert len(sealed.accepted) == 4


class Misled(Party):
    """Names another state in its reviews."""

    def advance(self) -> SealedRound | None:
        with suppress(StateDivergedError):
            self.member.advance("0" * 64, lambda round_, candidates: [""] * len(candidates))
        return None


def test_who_alone_names_another_state_makes_nobody_start_again() -> None:
    made = federation("a", "b", "c", "d", chosen=USUAL)
    made.parties["a"] = Misled(made.store, identity("a"), made.clock)
    for party in made.parties.values():
        party.publish()
    for name in "aabbb":
        assert made.parties[name].advance() is None
    assert len(finish_round([made.parties[name] for name in "bcd"], made.clock)) == 3


def test_among_equal_reviews_the_last_seal_draws_those_that_are_cited() -> None:
    made = federation(*"abcdef", chosen=USUAL)
    made.run_round()
    party, reviews, _ = reviewed(made)
    first = next(iter(reviews.values()))
    look, chain = party.member.look(), party.member.chain
    equal = {name: identity(name).sign({**first.body, "party": name}) for name in "abcdef"}
    candidates = {each.digest: each for each in look.updates.values()}
    sealed = composed(chain, "a", dataclasses.replace(look, reviews=equal), candidates)
    assert sealed is not None
    drawn = sorted(equal, key=lambda name: digest_of(f"{chain.head} {name}".encode()))
    assert [review.party for review in sealed.reviews] == sorted(drawn[:2])


class Lenient(Party):
    """Accepts all."""

    def judge(self, round_: int, candidates: Any) -> list[str]:
        return [""] * len(candidates)


def signs(party: Party, flipped: float) -> bytes:
    """An update of which only the signs say anything, that share of them the party's own."""
    common = torch.Generator().manual_seed(7)
    own = torch.Generator().manual_seed(ord(party.name))
    delta = {}
    for name, shape in party.state.shapes.items():
        usual = torch.randn(shape, generator=common).sign()
        delta[name] = torch.where(torch.rand(shape, generator=own) < flipped, -usual, usual)
    return pack(party.state.codec.encode(delta, None)[0])


@pytest.mark.parametrize("reason", ["outlier", "noise", "copied"])
def test_verification_names_who_let_pass_what_the_defences_refuse(reason: str) -> None:
    made = federation("a", "b", "c", "d", chosen=terms(quorum=4, reviews=4))
    made.parties["d"] = Lenient(made.store, identity("d"), made.clock)
    made.run_round()
    bad = made.parties["c"]
    payloads = {
        "outlier": lambda: signs(bad, 0.9),
        "noise": lambda: signs(bad, 0.5),
        "copied": lambda: signs(made.parties["a"], 0.1),
    }
    for name in ("a", "b", "d"):
        made.parties[name].publish(payload=signs(made.parties[name], 0.1))
    bad.publish(payload=payloads[reason]())
    finish_round(list(made.parties.values()), made.clock)
    made.run_round()
    view = View(made.store)
    result = verify(view)
    assert result.holds
    (rejected,) = view.chain.sealed[1].rejected
    assert rejected.reason == reason
    (finding,) = result.findings
    assert (finding.party, finding.round) == ("d", 1)
    assert f"voted 'accepted' on the update of '{rejected.update.party}'" in finding.what
    assert finding.what.endswith(f": {reason}")


class Behind(Forwarding):
    """A store whose listings lack the updates of a party for a while."""

    lacks = "/updates/a."

    def list(self, prefix: str, after: str = "") -> list[Entry]:
        found = super().list(prefix, after)
        return [each for each in found if not self.lacks or self.lacks not in each.key]


def test_reviewers_that_saw_two_copies_in_another_order_are_both_right() -> None:
    made = federation("a", "b", "c", "d", chosen=terms(quorum=4, reviews=4))
    copy = made.parties["a"].payload()
    behind = Behind(made.store)
    made.parties["c"] = Party(behind, made.identities["c"], made.clock)
    for name, each in made.parties.items():
        each.publish(payload=copy if name in "ab" else None)
    made.parties["c"].member.look()
    behind.lacks = ""
    sealed = finish_round(list(made.parties.values()), made.clock)[0]
    copies = {
        review.party: [vote.manifest for vote in review.votes if vote.reason]
        for review in sealed.reviews
    }
    assert copies["a"] == copies["b"] == copies["d"] != copies["c"]
    result = verify(View(made.store))
    assert result.holds
    assert not result.findings


def test_one_who_has_just_joined_need_not_know_the_updates_before() -> None:
    made = federation("a", "b", "c", chosen=terms(quorum=3, reviews=3, fragments=2))
    before = made.parties["a"].payload()
    made.run_round()
    store_state(made.parties["b"])
    made.run_round()
    assert list(made.party("b").state._earlier) == [1]
    for name in ("b", "c"):
        made.parties[name].publish()
    made.parties["a"].publish(payload=before)
    sealed = finish_round(list(made.parties.values()), made.clock)[0]
    votes = {review.party: {vote.reason for vote in review.votes} for review in sealed.reviews}
    assert votes == {"a": {"", "copied"}, "b": {""}, "c": {"", "copied"}}
    result = verify(View(made.store))
    assert result.holds
    assert not result.findings


class Denier(Party):
    """Says that payloads are malformed which are not."""

    def judge(self, round_: int, candidates: Any) -> list[str]:
        return ["malformed" if each.update.party == "a" else "" for each in candidates]


def test_verification_names_who_lied_about_bytes() -> None:
    made = federation("a", "b", "c", chosen=terms(quorum=3, reviews=3))
    made.parties["c"] = Denier(made.store, identity("c"), made.clock)
    assert len(made.run_round()[0].accepted) == 3
    result = verify(View(made.store))
    assert result.holds
    assert [(each.party, "malformed" in each.what) for each in result.findings] == [("c", True)]


def test_two_parties_cannot_outvote_each_other() -> None:
    made = federation("a", "b", chosen=terms(reviews=2))
    made.parties["b"] = Liar(made.store, identity("b"), made.clock)
    sealed = made.run_round()[0]
    assert [(each.update.party, each.reason) for each in sealed.rejected] == [("a", "disputed")]
    assert standing(made, "a") == (True, 0)


class WithoutSeals(Forwarding):
    """A store that takes no seal as long as it may not."""

    may_seal = False

    def put_new(self, key: str, data: bytes) -> bool:
        if key.startswith("seals/") and not self.may_seal:
            raise StoreUnreachableError("no seals now.")
        return super().put_new(key, data)


def sealable(made: Federation) -> tuple[Party, dict[str, Any]]:
    """A party that could seal now, and the body of the seal."""
    store = WithoutSeals(made.store)
    for name in list(made.parties):
        made.parties[name] = Party(store, made.identities[name], made.clock)
    for party in made.parties.values():
        party.publish()
    first = made.parties["a"]
    while True:
        for party in made.parties.values():
            look = party.member.look()
            needed = first.member.chain.needed_reviews(look.membership)
            if len(look.reviews) >= needed:
                manifests = {m.digest: m.signed for m in look.updates.values()}
                reviews = list(look.reviews.values())[:needed]
                chain = party.member.chain
                store.may_seal = True
                return first, compose(chain, "a", look.pending, reviews, manifests).body
            with suppress(StoreUnreachableError):
                party.advance()
        made.clock.wait(1)


def forged(body: dict[str, Any], how: str, made: Federation) -> dict[str, Any]:
    """The body of an invalid seal."""
    body = copy.deepcopy(body)
    if how == "weight":
        body["accepted"][0]["weight"] += 1
    elif how == "float":
        body["accepted"][0]["weight"] = float(body["accepted"][0]["weight"])
    elif how == "without a victim":
        body["accepted"].pop()
    elif how == "manifest":
        body["updates"].pop()
    elif how == "reviews":
        body["reviews"].pop()
    elif how == "one review twice":
        body["reviews"][1] = body["reviews"][0]
    elif how == "votes":
        body["reviews"][0]["body"]["votes"].pop()
    elif how == "base":
        body["base"] = "0" * 64
    elif how == "previous":
        body["previous"] = "0" * 64
    elif how == "round":
        body["round"] += 1
    elif how == "type":
        body["accepted"] = {"0": body["accepted"]}
    elif how == "own amendment":
        amendment = {
            "kind": "amendment", "federation": body["federation"], "number": 0,
            "previous": body["federation"], "action": "remove", "name": "b",
        }  # fmt: skip
        body["amendments"] = [identity("a").sign(amendment).to_dict()]
    return body


FORGERIES = (
    "weight", "float", "without a victim", "manifest", "reviews", "one review twice", "votes",
    "base", "previous", "type", "own amendment",
)  # fmt: skip


@pytest.mark.parametrize("how", FORGERIES)
def test_an_invalid_seal_is_void_stops_nobody_and_costs_a_strike(how: str) -> None:
    made = federation("a", "b", "c", chosen=terms(reviews=2, quorum=2))
    party, body = sealable(made)
    bad = identity("a").sign(forged(body, how, made))
    made.store.put_new(f"{seal_stem(0)}.0.json", bad.data)
    with pytest.raises(VoidObjectError):
        party.member.chain.check(bad.data)
    finish_round(list(made.parties.values()), made.clock)
    view = View(made.store)
    view.refresh()
    assert view.chain.next_round == 1
    assert standing(made, "a") == (True, 1)
    assert [refusal.key for refusal in view.log.refused] == [f"{seal_stem(0)}.0.json"]
    assert verify(View(made.store)).holds


def test_an_old_seal_that_somebody_copied_costs_its_signer_nothing() -> None:
    made = federation("a", "b")
    made.run_round()
    old = made.store.get(f"{seal_stem(0)}.0.json", 2**24)
    assert old is not None
    made.store.put_new(f"{seal_stem(1)}.0.json", old)
    made.run_round()
    assert [standing(made, name) for name in "ab"] == [(True, 0)] * 2


def test_a_review_made_for_another_chain_is_not_counted() -> None:
    made = federation("a", "b")
    review = Review(
        party="a", round=0, previous="0" * 64, base="0" * 64, amendments=0,
        votes=(Vote(manifest="1" * 64, reason="copied"),),
    )  # fmt: skip
    signed = identity("a").sign(body_of(review, "review", made.digest))
    made.store.put_new(f"{review_stem(0, 'a')}.0.json", signed.data)
    assert len(made.run_round()[0].accepted) == 2


def test_verification_finds_a_changed_state_and_a_changed_ledger() -> None:
    made = federation("a", "b")
    made.run_round()
    view = View(made.store)
    view.refresh()
    text = to_csv(ledger(view.chain), 1)
    made.run_round()
    assert verify(View(made.store), ledger_csv=text).holds
    result = verify(View(made.store), ledger_csv=text.replace("1,a,1,", "1,a,2,"))
    assert len(result.faults) == 2
    assert "not in the log: 1,a,2," in result.faults[1] + result.faults[0]


def test_on_a_slow_machine_a_dead_party_costs_no_more_than_the_grace_time() -> None:
    """Each review and each seal takes two seconds to write: rounds close the earlier for that."""

    class SlowWrites(Forwarding):
        def put_new(self, key: str, data: bytes) -> bool:
            if "/reviews/" in key or key.startswith("seals/"):
                made.clock.wait(2.0)
            return super().put_new(key, data)

    made = federation("a", "b", "c", chosen=terms(grace_s=15.0))
    store = SlowWrites(made.store)
    for name in ("a", "b", "c"):
        made.parties[name] = Party(store, made.identities[name], made.clock)
    made.run_round()
    began = made.clock.now_s
    made.run_round("a", "b")
    assert made.clock.now_s - began <= 15.0


def test_the_grace_time_runs_while_payloads_are_fetched() -> None:
    class SlowPayloads(Forwarding):
        def get(self, key: str, max_bytes: int) -> bytes | None:
            if key.startswith("blobs/"):
                made.clock.wait(6.0)
            return self.store.get(key, max_bytes)

    made = federation("a", "b", "c")
    a = Party(SlowPayloads(made.store), made.identities["a"], made.clock)
    made.clock.now_s = 1000.0
    made.parties["b"].publish()
    a.publish()
    began = made.clock.now_s
    made.parties["b"].advance()
    finish_round([a, made.parties["b"]], made.clock)
    assert made.clock.now_s - began <= 10.0


def test_a_strike_lapses_after_accepted_updates_in_a_row() -> None:
    chosen = terms()
    chosen = dataclasses.replace(chosen, defences=dataclasses.replace(chosen.defences, lapse=3))
    made = federation("a", "b", "c", chosen=chosen)
    made.parties["c"].publish(payload=made.parties["c"].payload(scale=1e3))
    made.parties["c"].residual.clear()
    for name in ("a", "b"):
        made.parties[name].publish()
    finish_round(list(made.parties.values()), made.clock)
    strikes = [standing(made, "c")]
    for _ in range(3):
        made.run_round()
        strikes.append(standing(made, "c"))
    assert strikes == [(True, 1), (True, 1), (True, 1), (True, 0)]
    assert verify(View(made.store)).holds
