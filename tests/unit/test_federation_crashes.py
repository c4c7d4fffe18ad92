"""A process dies before, in, or after any call of its store, and comes back; the store fails and
recovers; parties look in any order. No round is lost, none counts twice, all states are equal."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from federation_cases import Federation, Party, federation, finish_round, terms
from motley.errors import StoreUnreachableError
from motley.federation.log.view import View
from motley.federation.storage.store import Entry, Store, Traffic
from motley.federation.verify import verify

LATEST_CALL = 32
"""A round takes a party about so many calls; how many depends on the order that keys draw."""


class Died(BaseException):
    """What `kill -9` is to the process: nothing behind it runs."""


class Interrupting:
    """A store whose calls are counted; `hook(number, name, is_done)` may raise around each."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.calls = 0
        self.hook: Callable[[int, str, bool], None] = lambda number, name, is_done: None

    @property
    def traffic(self) -> Traffic:
        return self.store.traffic

    def _call(self, name: str, *arguments: Any) -> Any:
        self.calls += 1
        number = self.calls
        self.hook(number, name, False)
        result = getattr(self.store, name)(*arguments)
        self.hook(number, name, True)
        return result

    def put_new(self, key: str, data: bytes) -> bool:
        return bool(self._call("put_new", key, data))

    def get(self, key: str, max_bytes: int) -> bytes | None:
        data: bytes | None = self._call("get", key, max_bytes)
        return data

    def size(self, key: str) -> int | None:
        num_bytes: int | None = self._call("size", key)
        return num_bytes

    def list(self, prefix: str, after: str = "") -> list[Entry]:
        entries: list[Entry] = self._call("list", prefix, after)
        return entries


def check_all_equal(made: Federation, rounds: int) -> None:
    """The invariants that hold whatever happened."""
    view = View(made.store)
    result = verify(view)
    assert result.holds, result.faults
    assert result.rounds == rounds
    decided = [
        (update.round, update.party) for sealed in view.chain.sealed for update in sealed.updates()
    ]
    assert len(set(decided)) == len(decided)
    assert {party.state.digest() for party in made.parties.values()} == {result.state}


def victims_round(made: Federation, died_at: int, is_done: bool) -> str:
    """One round in which "a" dies at a call of its store; in which call, if it came that far.

    "a" looks first and alone until the round is sealed, so it is also the one that seals.
    """
    victim_store = Interrupting(made.store)
    died_in = ""

    def hook(number: int, name: str, done: bool) -> None:
        nonlocal died_in
        if number == died_at and done == is_done:
            died_in = name
            raise Died

    others = [made.party(name) for name in ("b", "c")]
    victim = Party(victim_store, made.identities["a"], made.clock)
    for party in others:
        party.publish()
    victim_store.hook, victim_store.calls = hook, 0
    try:
        victim.publish()
        made.parties["a"] = victim
        while victim.advance() is None:
            made.clock.wait(5)
    except Died:
        pass
    victim_store.hook = lambda number, name, done: None
    if died_in:
        revive(made, others)
    else:
        finish_round(others, made.clock)
    return died_in


def revive(made: Federation, others: list[Party]) -> None:
    """The victim comes back as a new process; it and the others finish the round."""
    again = made.party("a")
    if again.member.next_round == 0:
        again.publish()
    finish_round([*others, *([again] if again.member.next_round == 0 else [])], made.clock)


@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
def test_a_death_at_every_call_of_the_store(is_done: bool) -> None:
    """Writing an update, a review and the seal among them."""
    deaths: list[str] = []
    for at in range(1, LATEST_CALL):
        made = federation("a", "b", "c", chosen=terms(reviews=1))
        died_in = victims_round(made, at, is_done)
        check_all_equal(made, 1)
        if died_in:
            deaths.append(died_in)
    assert deaths.count("put_new") >= 4
    made.run_round()
    check_all_equal(made, 2)


class Weather:
    """Raises at random around calls: the store is away, or an answer is lost, or the process."""

    def __init__(self, seed: int, failing: float, dying: float) -> None:
        self._random = random.Random(seed)
        self._failing = failing
        self._dying = dying
        self.is_fair = False

    def __call__(self, number: int, name: str, is_done: bool) -> None:
        if self.is_fair:
            return
        draw = self._random.random()
        if draw < self._dying:
            raise Died
        if draw < self._dying + self._failing:
            raise StoreUnreachableError("the store does not answer.")


def bad_round(made: Federation, weather: Weather, chance: random.Random, goal: int) -> None:
    """Parties publish, look, fail, die and come back in any order until `goal` rounds are sealed
    for all."""
    for _ in range(3000):
        name = chance.choice(list(made.identities))
        try:
            party = made.parties.get(name) or rainy_party(made, name, weather)
            if party.round >= goal:
                if all(each.round >= goal for each in made.parties.values()):
                    return
                continue
            if chance.random() < 0.3:
                party.publish()
            party.advance()
        except StoreUnreachableError:
            pass
        except Died:
            made.parties.pop(name, None)
        made.clock.wait(chance.random())
    raise AssertionError(f"round {goal} was not sealed")


def rainy_party(made: Federation, name: str, weather: Weather) -> Party:
    store = Interrupting(made.store)
    store.hook = weather
    party = Party(store, made.identities[name], made.clock)
    made.parties[name] = party
    return party


@pytest.mark.parametrize("seed", range(8))
def test_any_order_with_failures_and_deaths(seed: int) -> None:
    chance = random.Random(seed)
    made = federation(
        "a", "b", "c", "d",
        chosen=terms(quorum=chance.choice([1, 2, 3]), reviews=1, snapshot_every=2),
    )  # fmt: skip
    weather = Weather(seed, failing=0.05, dying=0.01)
    made.parties.clear()
    for goal in (1, 2):
        bad_round(made, weather, chance, goal)
    weather.is_fair = True
    for name in made.identities:
        if name not in made.parties:
            made.party(name)
    for party in made.parties.values():
        catch_up(party)
    check_all_equal(made, rounds_sealed(made))


def rounds_sealed(made: Federation) -> int:
    view = View(made.store)
    view.refresh()
    return view.chain.next_round


def catch_up(party: Party) -> None:
    while party.advance() is not None:
        pass
