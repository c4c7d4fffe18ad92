"""The page: whole and safe for every kind of run, and as a browser shows it."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from motley.errors import RunFolderError, StorageError
from motley.report import RunHistory, write_report
from motley.report.page import page_html
from motley.report.timeline_chart import MOST_SPANS, choose
from page_browser import Outline, browse, probe
from report_sample import MIX, Event, Sample, resumed, sixteen, write_run

SECTIONS = ("loss", "chips", "timeline", "time", "memory", "predictions", "log", "recipe")
EVIL = '<script>alert("x")</script>&\'"'

BARE: list[Event] = [
    {"event": "run_started", "time": 1.0, "run": "bare", "chips": [{"name": "a"}]},
    {"event": "step", "time": 2.0, "step": 1, "chips": []},
]
RUNS: dict[str, list[Event]] = {
    "mix": Sample(steps=80).events(),
    "resumed": resumed(),
    "one chip, one step": Sample(MIX[:1], steps=1, validate_every=9).events(),
    "sixteen chips": Sample(sixteen(), steps=30).events(),
    "only started": [Sample().started()],
    "failed": Sample(steps=9, finish="failed", losses={4: math.nan, 6: math.nan}).events(),
    "never finite": Sample(steps=3, losses=dict.fromkeys(range(4), math.nan)).events(),
    "running": Sample(steps=9, planned_steps=90, finish=None).events(),
    "bare": BARE,
}


@pytest.mark.parametrize("name", RUNS)
def test_the_page_is_whole_for_every_kind_of_run(name: str) -> None:
    page = page_html(RunHistory.from_events(RUNS[name]))
    outline = Outline(page)
    assert outline.open == []
    assert set(SECTIONS) <= set(outline.ids)
    assert len(outline.ids) == len(set(outline.ids))
    assert outline.links == []
    assert not re.search(r"https?://|@import", page)
    assert not re.search(r"[\"' :]nan[\"'%;, ]|None", page.replace("None yet", ""))


def test_every_text_of_a_run_is_escaped() -> None:
    places = tuple(dataclasses.replace(MIX[n], name=f"{EVIL}{n}", kind=EVIL) for n in range(2))
    events = Sample(places, steps=3, name=EVIL).events()
    events[0]["recipe"]["model"][EVIL] = EVIL
    events.append({"event": "message", "time": 2e9, "text": EVIL})
    events.append({"event": "chip_lost", "time": 2e9, "chip": EVIL, "rank": EVIL, "reason": EVIL})
    events.append(
        {
            "event": "timeline",
            "time": 2e9,
            "step": 4,
            "spans": [
                {"chip": f"{EVIL}0", "kind": EVIL, "micro_batch": 1, "start_s": 0, "end_s": 1}
            ],
        }
    )
    page = page_html(RunHistory.from_events(events), (EVIL,))
    assert "<script>alert" not in page
    outline = Outline(page)
    assert outline.num_scripts == 2
    assert outline.open == []


def test_figures_say_where_they_come_from() -> None:
    page = page_html(RunHistory.from_events(RUNS["mix"]))
    for source in ("measured", "quoted", "emulated"):
        assert f'<span class="badge {source}">{source}</span>' in page
    assert ">predicted<" in page


def test_a_lost_chip_and_an_impossible_figure_are_said_at_the_top() -> None:
    events = resumed()
    events[-1]["reason"] = "failed"
    for event in events:
        if event["event"] == "run_started":
            event["chips"][1]["peak_flops_per_s"] /= 100
    page = page_html(RunHistory.from_events(events))
    alerts = page[page.index('class="alerts"') : page.index('id="loss"')]
    assert "Chip lost: mac (rank 2)" in alerts
    assert "The run failed after step 40." in alerts
    assert "gpu-b: " in alerts
    assert "cannot be" in alerts


def test_the_page_holds_some_timelines_and_says_of_how_many() -> None:
    history = RunHistory.from_events(RUNS["mix"])
    chosen = choose(history.timelines, history.measured_segment)
    assert [one.step for one in chosen][0::7] == [1, 80]
    assert "8 of 80 recorded" in page_html(history)
    crowded = RunHistory.from_events(RUNS["sixteen chips"])
    spans = max(len(one.spans) for one in crowded.timelines)
    assert len(choose(crowded.timelines, crowded.measured_segment)) * spans <= MOST_SPANS


def test_timelines_of_other_chips_are_left_out() -> None:
    history = RunHistory.from_events(resumed())
    chosen = choose(history.timelines, history.measured_segment)
    assert min(one.step for one in chosen) > 20


def test_the_report_is_written_whole_with_the_plans_reasons(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", RUNS["mix"])
    (folder / "plan.json").write_text(json.dumps({"reasons": ["old-c is slow & <old>"]}))
    path = write_report(folder)
    assert path == folder / "report.html"
    assert "old-c is slow &amp; &lt;old&gt;" in path.read_text(encoding="utf-8")
    assert sorted(item.name for item in folder.iterdir()) == [
        "events.jsonl", "plan.json", "report.html",
    ]  # fmt: skip
    assert write_report(folder).read_bytes() == path.read_bytes()


def test_a_report_that_cannot_be_put_in_place_leaves_nothing(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", RUNS["mix"])
    (folder / "report.html").mkdir()
    with pytest.raises(StorageError, match="cannot be written"):
        write_report(folder)
    assert sorted(item.name for item in folder.iterdir()) == ["events.jsonl", "report.html"]


def test_no_run_no_report(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError):
        write_report(tmp_path)
    with pytest.raises(RunFolderError):
        write_report(tmp_path / "missing")


PROBE = """
  const at = (element, x) => {
    const box = element.getBoundingClientRect();
    element.dispatchEvent(new PointerEvent("pointermove", {
      bubbles: true, clientX: box.left + box.width * x, clientY: box.top + box.height / 2}));
    return document.getElementById("tip").textContent;
  };
  found.lossTip = at(document.querySelector(".plot.linear .area"), 1);
  found.spanTip = at(document.querySelector(".timeline:not([hidden]) rect.backward"), .5);
  found.barTip = at(document.querySelector(".bar .compute"), .5);
  const picker = document.getElementById("timeline-step");
  picker.value = picker.options[0].value;
  picker.dispatchEvent(new Event("change"));
  found.steps = [...document.querySelectorAll(".timeline:not([hidden])")].map(
    (drawing) => drawing.dataset.step);
  document.getElementById("loss-log").click();
  found.plots = [...document.querySelectorAll(".plot")].filter(
    (plot) => plot.offsetHeight > 0).map((plot) => plot.className);
"""
INSIDE = "h1, h2, .fact, .bar, .lanes, .legend li, .who"


def probe_run(folder: Path, events: list[Event], width: int) -> dict[str, Any]:
    """What the browser shows of a run's page."""
    page = write_report(write_run(folder / "run", events)).read_text(encoding="utf-8")
    return probe(folder, page, width, PROBE, INSIDE)


@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_shows_the_page(tmp_path: Path, width: int) -> None:
    found = probe_run(tmp_path, RUNS["mix"], width)
    assert found["inner"] == width
    assert found["wide"] <= found["own"]
    assert found["outside"] == []
    assert found["sections"] == list(SECTIONS)
    assert re.fullmatch(r"step 80: training \d\.\d{4}, validation \d\.\d{4}", found["lossTip"])
    assert re.match(r"gpu-a: backward of micro-batch 0, .* predicted$", found["spanTip"])
    assert re.match(r"gpu-a: compute \d\d\.\d % .* measured$", found["barTip"])
    assert found["steps"] == ["1"]
    assert found["plots"] == ["plot log"]


def test_long_names_do_not_widen_the_page(tmp_path: Path) -> None:
    name = "a-chip-with-a-name-that-nobody-should-give-to-a-chip-but-somebody-will"
    places = tuple(dataclasses.replace(place, name=f"{place.name}-{name}") for place in MIX)
    events = Sample(places, steps=12, name=f"run-{name}-{name}").events()
    events.insert(2, {"event": "chip_lost", "time": 1.79e9, "chip": name, "rank": 1, "step": 1,
                      "reason": "x" * 300})  # fmt: skip
    found = probe_run(tmp_path, events, 400)
    assert found["wide"] <= found["own"] <= 400
    assert found["outside"] == []


def test_the_browser_test_would_see_an_error(tmp_path: Path) -> None:
    page = tmp_path / "broken.html"
    page.write_text("<!doctype html><script>throw new Error('seen')</script>")
    _, logged = browse(page, tmp_path, 800)
    assert "CONSOLE" in logged
    assert "seen" in logged
