"""A party that waits for the others: it trains no further, says for whom, and can be stopped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from torch import Tensor

import motley.federation.party.correspondence as correspondence_module
from federation_cases import Federation, base_state, federation, terms
from motley.federation.charter.charter import read_charter
from motley.federation.log.log import CHARTER
from motley.federation.party.correspondence import Correspondence
from motley.federation.party.course import PartyCourse
from motley.federation.party.rounds import Member
from motley.train.engine import StepResult

PLAIN = {"delay_steps": 0, "local_steps": 1}


class Parameters:
    """A model in this process."""

    world_size = 1

    def __init__(self) -> None:
        self.values = dict(base_state(terms()).parameters)

    def gather(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.values.items()}

    def change(self, values: Mapping[str, Tensor], *, keep: float) -> None:
        self.values = {name: keep * self.values[name] + new for name, new in values.items()}


class Process:
    """One process of party "a"; after `patience` looks somebody presses Ctrl-C."""

    def __init__(self, made: Federation, patience: int) -> None:
        self.said: list[str] = []
        self.looks_left = patience
        member = Member(made.store, made.identities["a"], made.digest)
        line = Correspondence(member, chips={"cpu": 1}, record=self._record)
        data = made.store.get(CHARTER, 2**20)
        assert data is not None
        charter, _ = read_charter(data)
        self.course = PartyCourse(charter, Parameters(), line, stop_requested=self._is_asked)

    def _record(self, event: str, **fields: Any) -> None:
        self.said.append(str(fields.get("text", event)))

    def _is_asked(self) -> bool:
        self.looks_left -= 1
        return self.looks_left < 0

    def train_step(self, step: int) -> None:
        result = StepResult(
            loss=1.0, gradient_norm=1.0, learning_rate=0.1, num_targets=8, step_s=0.1, stop=False,
            reports=[], spans=[],
        )  # fmt: skip
        self.course.after_step(step, result)


@pytest.fixture
def made() -> Federation:
    return federation("a", "b", chosen=terms(**PLAIN))


def test_a_party_that_waits_for_a_quorum_can_be_stopped(made: Federation) -> None:
    process = Process(made, patience=3)
    process.course.begin(0)
    assert not process.course.is_stopped
    process.train_step(1)
    assert process.course.is_stopped
    assert "federation_update" in process.said


def test_who_has_published_before_waits_instead_of_training_on(made: Federation) -> None:
    first = Process(made, patience=3)
    first.course.begin(0)
    first.train_step(1)
    again = Process(made, patience=5)
    again.course.begin(1)
    assert not again.course.is_stopped
    again.train_step(2)
    assert again.course.is_stopped
    assert again.looks_left < 0


def test_a_party_trains_ahead_as_far_as_its_update_can_weigh_and_then_waits() -> None:
    chosen = terms(delay_steps=1, local_steps=3)
    process = Process(federation("a", "b", chosen=chosen), patience=40)
    process.course.begin(0)
    steps = 0
    while not process.course.is_stopped:
        steps += 1
        process.train_step(steps)
    assert steps == 3 + 3 * chosen.defences.max_weight_ratio
    assert process.said.count("federation_update") == 1


def test_a_party_can_be_stopped_before_it_has_caught_up(made: Federation) -> None:
    process = Process(made, patience=0)
    process.course.begin(0)
    assert process.course.is_stopped


def test_who_is_waited_for_is_told_once(made: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correspondence_module, "PATIENCE_S", 0.0)
    process = Process(made, patience=4)
    process.course.begin(0)
    process.train_step(1)
    told = [text for text in process.said if "waits for" in text]
    assert told == ["Round 0 waits for 1 more update; none yet from: b."]
