"""Ten thousand malicious objects in every place of the log: none counts, none stops a round."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from federation_cases import Federation, federation, finish_round, identity, terms
from motley.federation.keys.objects import canonical
from motley.federation.log.log import (
    amendment_stem,
    review_stem,
    seal_stem,
    session_stem,
    snapshot_stem,
    update_stem,
)
from motley.federation.log.view import View
from motley.federation.storage.store import Store
from motley.federation.verify import verify

NUM_OBJECTS = 10_000
VICTIMS = ("a", "b", "c")


def real_objects(store: Store) -> list[bytes]:
    """Every signed object of a federation that has run a while."""
    keys = [entry.key for entry in store.list("") if entry.key.endswith(".json")]
    found = [store.get(key, 2**24) or b"" for key in keys]
    return [data for data in found if is_signed(data)]


def is_signed(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data)["body"]["kind"], str)
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def stems(round_: int) -> list[str]:
    """All places that the parties look at in a round."""
    return [
        seal_stem(round_),
        amendment_stem(0),
        snapshot_stem(round_),
        *(update_stem(round_, name) for name in VICTIMS),
        *(review_stem(round_, name) for name in VICTIMS),
        *(session_stem(name, 1) for name in VICTIMS),
    ]


def flip(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        changed[chance.randrange(len(changed))] ^= chance.randint(1, 255)
    return bytes(changed)


def cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def doubled(data: bytes, chance: random.Random) -> bytes:
    return data + data


def noise(data: bytes, chance: random.Random) -> bytes:
    return chance.randbytes(chance.randrange(1, 400))


def same(data: bytes, chance: random.Random) -> bytes:
    """A replay: genuine, in a place that it was not made for."""
    return data


def nested(data: bytes, chance: random.Random) -> bytes:
    return b"[" * 10_000 + b"]" * 10_000


def stranger(data: bytes, chance: random.Random) -> bytes:
    """The same words, signed by somebody else in a member's name."""
    body = json.loads(data)["body"]
    forged = identity("stranger").sign(body).to_dict()
    forged["body"]["party"] = body["party"]
    return canonical(forged)


def mutated(data: bytes, chance: random.Random) -> bytes:
    """A field changed under the old signature."""
    table = json.loads(data)
    body = table["body"]
    field = chance.choice(sorted(body))
    choices: list[Any] = [0, 1, -1, 2**60, "", "a", [], {}, None, True, 1e300, "0" * 64]
    others = [each for each in choices if canonical(each) != canonical(body[field])]
    body[field] = chance.choice(others)
    return canonical(table)


MUTATIONS: list[Callable[[bytes, random.Random], bytes]] = [
    flip, cut, doubled, noise, same, nested, stranger, mutated,
]  # fmt: skip


def flood(made: Federation, chance: random.Random, round_: int, replayed: list[bytes]) -> int:
    """Fills the first slots of every place with malicious objects; how many."""
    store = made.store
    count = 0
    for stem in stems(round_):
        for slot in range(16):
            data = chance.choice(MUTATIONS)(chance.choice(replayed), chance)
            count += store.put_new(f"{stem}.{slot}.json", data)
    for original in replayed[:20]:
        stem = chance.choice(stems(round_ + 1))
        count += store.put_new(f"{stem}.0.json", original)
    return count


def test_ten_thousand_malicious_objects_are_refused() -> None:
    chance = random.Random(0)
    made = federation(*VICTIMS, chosen=terms(reviews=2))
    made.run_round()
    count, genuine = 0, list[bytes]()
    while count < NUM_OBJECTS:
        round_ = made.parties["a"].round
        genuine = genuine or real_objects(made.store)
        count += flood(made, chance, round_, genuine)
        if round_ < 4:
            for sealed in made.run_round():
                assert len(sealed.accepted) == len(VICTIMS)
                assert not sealed.rejected
        else:
            count += reading(made, chance, NUM_OBJECTS - count, genuine)
    result = verify(View(made.store))
    assert result.holds
    assert not result.findings
    assert {party.state.digest() for party in made.parties.values()} == {result.state}
    assert all(party.member.chain.membership.standings[name].strikes == 0
               for party in made.parties.values() for name in VICTIMS)  # fmt: skip


def reading(made: Federation, chance: random.Random, count: int, genuine: list[bytes]) -> int:
    """Offers objects to the readers of every kind directly; none is taken."""
    member = made.parties["a"].member
    view, membership = member.view, member.chain.membership
    kinds = {
        "update": view.reader_of_update(member.next_round, "a", membership),
        "amendment": view.reader_of_amendment(membership),
        "session": view.reader_of_session(session_stem("a", 9), "a", membership),
        "seal": view.chain.check,
    }
    for number in range(count):
        kind = chance.choice(sorted(kinds))
        data = chance.choice(MUTATIONS)(chance.choice(genuine), chance)
        made.store.put_new(f"offered/{number}.0.json", data)
        assert view.log.read(f"offered/{number}.0.json", kind, kinds[kind]) is None
    assert view.log.num_refused >= count
    return count


def test_blobs_that_are_damaged_truncated_or_missing_count_against_their_party() -> None:
    """A manifest is signed, but its bytes are not there: the others go on without it."""
    made = federation("a", "b", "c", chosen=terms(reviews=2))
    a = made.parties["a"]
    real = a.member.store.put_new
    for spoil, reason in ((lambda d: None, "missing"), (lambda d: d[:-1], "damaged")):

        def put_new(key: str, data: bytes, spoil: Any = spoil) -> bool:
            if not key.startswith("blobs/"):
                return real(key, data)
            spoilt = spoil(data)
            return spoilt is None or real(key, spoilt)

        a.member.store.put_new = put_new  # type: ignore[attr-defined]
        a.publish()
        a.member._payloads.keep_only(())
        a.member.store.put_new = real  # type: ignore[attr-defined]
        for name in ("b", "c"):
            made.parties[name].publish()
        sealed = finish_round(list(made.parties.values()), made.clock)[0]
        assert [(each.update.party, each.reason) for each in sealed.rejected] == [("a", reason)]
    assert made.parties["b"].member.chain.membership.standings["a"].strikes == 2
