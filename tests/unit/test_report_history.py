"""From events to figures: resumed runs, medians, utilisation that cannot be."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from motley.errors import RunFolderError
from motley.report import RunHistory, summary_dict
from motley.report.figures import run_figures
from report_sample import MIX, Event, Sample, resumed, write_run


def test_a_finished_run() -> None:
    history = RunHistory.from_events(Sample(steps=40).events())
    assert history.state == "done"
    assert [step.step for step in history.steps] == list(range(1, 41))
    assert history.tokens == 40 * Sample().tokens
    assert (history.last_step, history.num_steps) == (40, 40)
    assert [entry.step for entry in history.validations] == [10, 20, 30, 40]


def test_the_first_step_warms_up_and_does_not_count() -> None:
    events = Sample(steps=6).events()
    steps = [event for event in events if event["event"] == "step"]
    figures = run_figures(RunHistory.from_events(events))
    assert figures.step_s == statistics.median(step["step_s"] for step in steps[1:])


def test_one_step_alone_counts() -> None:
    events = Sample(steps=1).events()
    figures = run_figures(RunHistory.from_events(events))
    assert figures.step_s == events[1]["step_s"]


def test_utilisation_is_flops_over_time_and_peak() -> None:
    events = Sample(steps=2).events()
    started, step = events[0], next(event for event in reversed(events) if event["event"] == "step")
    figures = run_figures(RunHistory.from_events(events))
    peak, flops = started["chips"][0]["peak_flops_per_s"], step["chips"][0]["flops"]
    assert figures.chips[0].utilisation == pytest.approx(flops / (step["step_s"] * peak))
    all_flops = sum(chip["flops"] for chip in step["chips"])
    all_peaks = sum(chip["peak_flops_per_s"] for chip in started["chips"])
    assert figures.utilisation == pytest.approx(all_flops / (step["step_s"] * all_peaks))


def test_the_quoted_peak_stands_beside_the_measured_one_where_all_chips_have_it() -> None:
    events = Sample(steps=2).events()
    chips = events[0]["chips"]
    for chip in chips:
        chip["quoted_peak_flops_per_s"] = 2 * chip["peak_flops_per_s"]
    history = RunHistory.from_events(events)
    figures = run_figures(history)
    assert figures.utilisation is not None
    assert figures.quoted_utilisation == pytest.approx(figures.utilisation / 2)
    table = summary_dict(history)
    half = table["chips"][1]["utilisation"]["value"] / 2
    assert table["chips"][1]["utilisation_of_quoted"]["value"] == pytest.approx(half)
    assert table["chips"][1]["quoted_peak_flops_per_s"]["source"] == "quoted"
    chips[2]["quoted_peak_flops_per_s"] = None
    figures = run_figures(RunHistory.from_events(events))
    assert figures.quoted_utilisation is None
    assert figures.chips[1].quoted_utilisation is not None


def test_utilisation_above_the_peak_is_refused_with_a_warning() -> None:
    events = Sample(steps=4).events()
    events[0]["chips"][2]["peak_flops_per_s"] /= 100
    figures = run_figures(RunHistory.from_events(events))
    assert figures.chips[2].utilisation is None
    assert figures.utilisation is None
    (warning,) = figures.warnings
    assert "mac" in warning
    assert "quoted peak cannot be" in warning
    assert figures.chips[1].utilisation is not None


def test_more_memory_than_available_is_a_warning() -> None:
    events = Sample(steps=4).events()
    events[0]["chips"][1]["memory_available_bytes"] = 2**30
    (warning,) = run_figures(RunHistory.from_events(events)).warnings
    assert warning.startswith("gpu-b: used ")


def test_time_parts_make_up_the_step() -> None:
    for chip in run_figures(RunHistory.from_events(Sample(steps=9).events())).chips:
        assert chip.time is not None
        assert chip.time.total == pytest.approx(sum(part for _, part in chip.time.parts()))
        assert min(part for _, part in chip.time.parts()) >= 0


def test_a_run_with_an_emulated_chip_is_emulated() -> None:
    assert run_figures(RunHistory.from_events(Sample(steps=3).events())).source == "emulated"
    real = tuple(place for place in MIX if not place.emulated)
    assert run_figures(RunHistory.from_events(Sample(real, steps=3).events())).source == "measured"


def test_prediction_error_is_below_zero_when_the_plan_hoped_too_much() -> None:
    figures = run_figures(RunHistory.from_events(Sample(steps=9).events()))
    assert figures.step_s is not None
    assert figures.predicted_step_s is not None
    assert figures.step_error == pytest.approx(figures.predicted_step_s / figures.step_s - 1)
    assert figures.step_error is not None
    assert -0.12 < figures.step_error < -0.04


def test_after_a_resumption_the_later_record_of_a_step_counts() -> None:
    history = RunHistory.from_events(resumed())
    assert [step.step for step in history.steps] == list(range(1, 41))
    assert [step.segment for step in history.steps] == [0] * 20 + [1] * 20
    assert history.segments[1].num_repeated == 7
    assert [chip.name for chip in history.measured_segment.chips] == [
        "gpu-a", "gpu-b", "old-c", "old-d",
    ]  # fmt: skip
    assert [len(history.steps_of(segment)) for segment in history.segments] == [20, 20]
    said = [(notice.kind, notice.is_problem) for notice in history.notices]
    assert ("chip_lost", True) in said
    assert ("checkpoint_failed", True) in said


def test_a_resumption_drops_what_followed_its_checkpoint_at_once() -> None:
    events = resumed()
    again = next(i for i, event in enumerate(events) if event.get("resumed_from") == 20)
    history = RunHistory.from_events(events[: again + 1])
    assert history.last_step == 20
    assert history.state == "running"
    assert len(history.timelines) == 20
    assert history.measured_segment.index == 0


def test_a_pause_between_two_segments_is_not_running_time() -> None:
    events = Sample(steps=4, planned_steps=8).events()
    later = Sample(steps=8, resumed_from=4, start=events[0]["time"] + 86400).events()
    assert RunHistory.from_events(events + later).elapsed_s < 600


def test_time_to_finish_uses_the_clock_of_the_steps() -> None:
    events = Sample(steps=20, planned_steps=40, finish=None).events()
    remaining = run_figures(RunHistory.from_events(events)).remaining_s
    assert remaining is not None
    steps = [event["time"] for event in events if event["event"] == "step"]
    assert remaining == pytest.approx(20 * (steps[-1] - steps[1]) / 18)
    assert run_figures(RunHistory.from_events(Sample(steps=20).events())).remaining_s is None


def test_unknown_figures_stay_unknown() -> None:
    events: list[Event] = [
        {"event": "run_started", "time": 1.0, "run": "bare", "chips": [{"name": "a"}]},
        {"event": "step", "time": 2.0, "step": 1, "loss": None, "chips": []},
        {"event": "something new", "time": 3.0},
    ]
    history = RunHistory.from_events(events)
    figures = run_figures(history)
    assert figures.chips[0].utilisation is None
    assert figures.step_s is None
    assert figures.step_error is None
    assert history.state == "running"


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"event": "step"}, "'step' is missing"),
        ({"event": "step", "step": "one"}, "event 2"),
        ({"event": "step", "step": 1, "loss": "low"}, "'loss' is a text"),
        ({"event": "timeline", "step": 1, "spans": [3]}, "not as motley writes it"),
    ],
)
def test_events_that_make_no_sense_are_named(event: Event, expected: str) -> None:
    with pytest.raises(RunFolderError, match=expected):
        RunHistory.from_events([Sample(steps=1).started(), {"time": 5.0, **event}])


def test_events_without_a_start_are_no_run() -> None:
    with pytest.raises(RunFolderError, match="before any 'run_started'"):
        RunHistory.from_events([{"event": "step", "time": 1.0, "step": 1}])
    with pytest.raises(RunFolderError, match="has not started"):
        RunHistory.from_events([])


def failed_start() -> list[Event]:
    """What the launcher writes when the processes could not be started."""
    return [
        {"event": "message", "time": 1.0, "text": "port 29500 is taken."},
        {"event": "chip_lost", "time": 1.0, "chip": "gpu-a", "reason": "killed", "step": 0},
        {"event": "run_finished", "time": 1.0, "step": 0, "reason": "failed", "seconds": None},
    ]


def test_a_run_that_could_not_start_says_why_and_may_start_later() -> None:
    with pytest.raises(RunFolderError, match=r"has not started\. port 29500 is taken"):
        RunHistory.from_events(failed_start())
    history = RunHistory.from_events(failed_start() + Sample(steps=3).events())
    assert (history.state, history.last_step) == ("done", 3)
    assert history.notices[1].text == "gpu-a: killed"


def test_a_failed_run_says_what_was_said_last() -> None:
    events = Sample(steps=3, finish="failed").events()
    events.insert(-1, {"event": "message", "time": 2e9, "text": "The loss is not finite."})
    assert RunHistory.from_events(events).failure == "The loss is not finite."
    assert RunHistory.from_events(Sample(steps=3).events()).failure == ""


def test_the_peak_of_an_emulated_chip_is_emulated_whatever_its_source_says() -> None:
    events = Sample(steps=2).events()
    events[0]["chips"][3]["source"] = "measured"
    assert RunHistory.from_events(events).segments[0].chips[3].peak_source == "emulated"


def test_load_names_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no such folder"):
        RunHistory.load(tmp_path / "none")
    assert RunHistory.load(write_run(tmp_path / "run", Sample(steps=2).events())).last_step == 2


def test_the_summary_for_programs_is_json_and_each_figure_has_a_source() -> None:
    table = summary_dict(RunHistory.from_events(resumed()))
    text = json.dumps(table, allow_nan=False)
    assert json.loads(text) == table
    assert table["step_s"]["source"] == "emulated"
    assert table["chips"][0]["peak_flops_per_s"]["source"] == "measured"
    assert table["problems"] == [
        "chip lost at step 27: mac (rank 2): the process was killed (signal 9)",
        "checkpoint failed at step 27: disk full",
    ]


def test_a_lost_chip_is_named_once() -> None:
    """The launcher's reason is its whole message, which has the chip's name."""
    reason = "chip 'gpu-a' (rank 0) was lost after step 0: killed by SIGKILL."
    start, lost, end = failed_start()
    history = RunHistory.from_events(
        [start, {**lost, "reason": reason}, end, *Sample(steps=3).events()]
    )
    assert history.notices[1].text == reason
