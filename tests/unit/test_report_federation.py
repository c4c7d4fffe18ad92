"""The report of a run that is a party of a federation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from motley.report import RunHistory, write_report
from motley.report.figures import run_figures
from motley.report.page import page_html
from report_sample import START, Event, Sample, write_run

EVIL = "<script>alert(1)</script>"


def round_event(round_: int, **changes: object) -> Event:
    row = {"party": "lab-a", "round": round_, "tokens": 1000, "loss": 5.5, "bytes": 4096}
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
    assert EVIL not in html


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
