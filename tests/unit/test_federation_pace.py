"""Local steps by pace, the place in the shared schedule, and news that add up."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from motley.federation.charter.messages import Update
from motley.federation.charter.terms import RoundTerms
from motley.federation.party.pace import WIDEST, Progress, local_steps, num_rounds, steps_between
from motley.federation.party.trained import News
from motley.federation.storage.reference import Bulk, Chunk
from motley.recipe import ScheduleConfig

TERMS = RoundTerms(local_steps=40, fragments=2)


def update(steps: int, seconds: float) -> Update:
    chunk = Chunk(digest="0" * 64, bytes=1)
    return Update(
        party="lab-a", round=0, base="0" * 64, tokens=1, steps=steps, seconds=seconds, session=0,
        payload=Bulk(bytes=1, chunks=(chunk,)),
    )  # fmt: skip


def test_the_charters_steps_are_for_the_middle_party() -> None:
    before = [update(4, 1.0), update(2, 1.0), update(1, 1.0), update(1, 1.0)]
    assert [local_steps(TERMS, rate, before) for rate in (4.0, 2.0, 1.0)] == [80, 40, 20]
    assert steps_between(TERMS) == 20


def test_without_a_rate_a_party_takes_what_the_charter_says() -> None:
    assert local_steps(TERMS, None, [update(1, 1.0)]) == 20
    assert local_steps(TERMS, 1.0, []) == 20
    assert local_steps(TERMS, 1.0, [update(1, 0.0)]) == 20


@given(rate=st.floats(1e-6, 1e6), others=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=9))
def test_nobody_is_asked_for_much_more_or_less(rate: float, others: list[float]) -> None:
    steps = local_steps(TERMS, rate, [update(1, 1 / other) for other in others])
    assert 20 / WIDEST <= steps <= 20 * WIDEST


def test_rounds_cover_the_schedule() -> None:
    assert num_rounds(TERMS, ScheduleConfig(steps=100)) == 5
    assert num_rounds(TERMS, ScheduleConfig(steps=101)) == 6


def test_the_place_in_the_schedule_goes_with_the_rounds() -> None:
    places = [
        Progress(round_, steps, 80).schedule_step(TERMS)
        for round_, steps in ((0, 0), (0, 40), (0, 80), (0, 200), (1, 0), (1, 40))
    ]
    assert places == [0.0, 10.0, 20.0, 20.0, 20.0, 30.0]


def test_news_one_after_the_other_are_as_one() -> None:
    own = {"a": torch.tensor([1.0]), "b": torch.tensor([2.0])}
    first = News(round=1, keep=1.0, change={"a": torch.tensor([10.0])})
    second = News(round=2, keep=1.0, change={"a": torch.tensor([5.0]), "b": torch.tensor([7.0])})
    both = second.after(first)
    assert both.round == 2
    assert {name: float(own[name] + both.change[name]) for name in own} == {"a": 16.0, "b": 9.0}
    whole = News(round=3, keep=0.0, change=own)
    assert whole.after(both) is whole
    changed = first.after(whole)
    assert changed.keep == 0.0
    assert float(changed.change["a"]) == pytest.approx(11.0)
