"""The report of a run that is a party of a federation."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from motley.report import RunHistory, write_report
from motley.report.figures import run_figures
from motley.report.ledger_page import LedgerFacts, ledger_html
from motley.report.page import page_html
from report_sample import START, Event, Sample, write_run

EVIL = "<script>alert(1)</script>"


def round_event(round_: int, **changes: object) -> Event:
    row = {"party": "lab-a", "round": round_, "tokens": 1000, "loss": 5.5, "bytes": 4096}
    row |= {"chip_seconds": 1500.0, "epsilon": None}
    refused = {**row, "party": EVIL, "reason": "outlier"}
    return {
        "event": "federation_round",
        "time": START + 60 + round_,
        "round": round_,
        "sealed_by": "lab-b",
        "accepted": [{**row, "weight": 1000}, {**row, "party": "lab-b", "weight": 3000}],
        "rejected": [refused],
        "digest": f"{round_:064x}",
        "round_s": 2.0,
        "apply_s": 0.1,
        "sent_bytes": 10_000,
        "received_bytes": 20_000,
        **changes,
    }


def federated(*rounds: Event) -> list[Event]:
    update = {"event": "federation_update", "time": START + 61, "round": 0, "seconds": 9.9}
    return [*Sample(steps=9).events()[:-1], {**update, "paused_s": 0.1}, *rounds]


def test_a_party_sees_parties_and_rounds(tmp_path: Path) -> None:
    events = federated(round_event(0), round_event(1), round_event(1, sealed_by="lab-c"))
    html = write_report(write_run(tmp_path / "run", events)).read_text()
    section = html.partition('id="federation"')[2].partition("</section>")[0]
    words = re.sub(r"<[^>]+>", " ", section)
    assert "2 rounds taken in" in words
    assert "25.0 %" in words or "25 %" in words
    assert "outlier in round 1" in words
    assert "lab-c" in words
    assert "3 k" in words, "chip-seconds of two rounds"
    assert "of all 2 rounds so far, as in the ledger" in words
    assert "loss (stated)" in words
    assert EVIL not in html


def test_who_joined_late_is_told_what_the_shares_are_of() -> None:
    html = page_html(RunHistory.from_events(federated(round_event(7), round_event(8))))
    assert "of the 2 rounds that this run took in one by one, of 9 that are sealed" in html


def test_where_there_is_privacy_what_is_spent_takes_the_place_of_the_loss() -> None:
    row = {"party": "lab-a", "round": 0, "tokens": 10, "weight": 10, "bytes": 4, "loss": None}
    accepted = [{**row, "chip_seconds": 1.0, "epsilon": 2.5}]
    rejected = [{**row, "round": 1, "epsilon": 3.25, "reason": "outlier"}]
    event = round_event(0, accepted=accepted, rejected=rejected)
    html = page_html(RunHistory.from_events(federated(event)))
    section = html.partition('id="federation"')[2].partition("</section>")[0]
    assert "epsilon (stated)" in section
    assert "3.25" in section
    assert "loss (stated)" not in section


def test_the_ledgers_page_says_all_that_the_ledger_does() -> None:
    line = {
        "party": "lab-a", "accepted": 3, "rejected": 1, "share": 0.25, "weight": 3000,
        "tokens": 3000, "steps": 30, "chip_seconds": 1500.0, "payload_bytes": 3 * 2**20, "seals": 1,
        "reviews": 2, "strikes": 0, "standing": "active", "epsilon": None,
    }  # fmt: skip
    other = {**line, "party": EVIL, "share": 0.75, "chip_seconds": 4500.0, "standing": "removed"}
    facts = LedgerFacts(name="two labs", fingerprint="0" * 16, rounds=4, delta=None)
    html = ledger_html(facts, [line, other])
    words = re.sub(r"<[^>]+>", " ", html)
    for said in ("4 sealed rounds", "2 parties", "25.0 %", "1.5 k", "3 MiB", "removed"):
        assert said in words
    assert "lab-a: 25.0 % of the weights, 25.0 % of the chip-seconds" in html
    assert EVIL not in html
    assert "epsilon" not in words
    private = ledger_html(dataclasses.replace(facts, delta=1e-5), [{**line, "epsilon": 2.5}])
    assert "privacy spent at delta 1e-05" in private
    assert ">2.5<" in private


def test_a_run_of_its_own_has_no_such_section() -> None:
    html = page_html(RunHistory.from_events(Sample(steps=9).events()))
    assert 'id="federation"' not in html


def test_what_is_missing_is_unknown() -> None:
    bare: Event = {"event": "federation_round", "time": START + 60, "round": 0}
    html = page_html(RunHistory.from_events(federated(bare, round_event(1, accepted=[{}]))))
    assert "unknown" in html


def test_progress_is_in_rounds_as_the_recipes_steps_are_not_the_partys(tmp_path: Path) -> None:
    started, *rest = federated(round_event(4), round_event(6))
    history = RunHistory.from_events([{**started, "num_rounds": 40}, *rest])
    assert history.how_far == "step 9, 7 of 40 rounds"
    assert (history.done_of, history.num_steps) == ((7, 40), None)
    remaining_s = run_figures(history).remaining_s
    assert remaining_s == pytest.approx(33 * 1.0)
    assert "step 9, 7 of 40 rounds" in page_html(history)
