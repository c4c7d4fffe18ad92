"""What a user sees in a terminal: golden texts at fixed sizes, and following a growing file."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from motley.errors import RunFolderError
from motley.report import RunHistory, follow, render, summary
from motley.report.terminal import sparkline
from report_sample import Sample, resumed, sixteen, write_run

LIVE_80 = """\
mix-30m  step 120 of 240  ━━━━━━━━━━━━━━━━━━━━━━━━━━━
loss 3.0977  █▅▃▂▂▁▁▁▁▁▁▁▁▁▁▁  validation 3.1702 at step 120
emulated: 29.2 k tokens/s · 2 min 17 s left · 44.2 % of peak · waiting 18.6 %

chip   stage  tokens/s  of peak   peak is  waiting          memory
──────────────────────────────────────────────────────────────────
gpu-a  r0 s0    14.6 k   42.4 %  measured   24.2 %  17.5 of 24 GiB
gpu-b  r1 s0    7.29 k   48.5 %  measured   18.8 %  10.2 of 12 GiB
mac    r2 s0    3.65 k   32.8 %    quoted   12.2 %  5.91 of 16 GiB
old-c  r3 s0    3.65 k   66.3 %  emulated   18.8 %   4.78 of 8 GiB
old-d  r3 s1    3.65 k   66.3 %  emulated   19.0 %   4.31 of 8 GiB
"""

LIVE_62 = """\
mix-30m  step 40 of 40  ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━
loss 3.6540  █▇▅▄▄▃▂▂▂▂▁▁▁▁▁▁  validation 3.6798 at step 40
emulated: 25.6 k tokens/s · 46.6 % of peak · waiting 20.2 %

chip   tokens/s  of peak   peak is  waiting
───────────────────────────────────────────
gpu-a    14.6 k   42.5 %  measured   24.1 %
gpu-b    7.31 k   48.7 %  measured   18.8 %
old-c    3.66 k   66.5 %  emulated   18.9 %
old-d    3.66 k   66.5 %  emulated   18.9 %

planned again for the chips that are left
checkpoint failed at step 27: disk full
run finished at step 40: done
"""

LIVE_50 = """\
step 40 of 40 · loss 3.6540 · emulated: 25.6 k
tokens/s · 46.6 % of peak · waiting 20.2 %
"""

SUMMARY_80 = """\
mix-30m  done, step 40 of 40, 4 chips

step time               1.12 s      emulated
                        1.04 s      predicted, off by -6.9 %
tokens/s                25.6 k      emulated
of the summed peak      46.6 %      emulated
waiting, mean of chips  20.2 %      emulated
tokens trained          1.23 M      measured
time running            1 min 08 s  emulated
training loss           3.6540      measured
validation loss         3.6798      measured, 1.475 bits per byte

chip   stage  tokens/s  of peak   peak is  waiting          memory
──────────────────────────────────────────────────────────────────
gpu-a  r0 s0    14.6 k   42.5 %  measured   24.1 %  17.5 of 24 GiB
gpu-b  r1 s0    7.31 k   48.7 %  measured   18.8 %  10.2 of 12 GiB
old-c  r3 s0    3.66 k   66.5 %  emulated   18.9 %    4.8 of 8 GiB
old-d  r3 s1    3.66 k   66.5 %  emulated   18.9 %    4.3 of 8 GiB

chip lost at step 27: mac (rank 2): the process was killed (signal 9)
checkpoint failed at step 27: disk full
"""


def console(width: int = 80, height: int = 24, *, is_terminal: bool = False) -> Console:
    return Console(
        file=io.StringIO(), width=width, height=height, force_terminal=is_terminal,
        color_system=None, legacy_windows=False, _environ={},
    )  # fmt: skip


def text_of(target: Console) -> str:
    assert isinstance(target.file, io.StringIO)
    lines = target.file.getvalue().splitlines()
    return "".join(f"{line.rstrip()}\n" for line in lines)


def rendered(renderable: RenderableType, width: int, height: int = 24) -> str:
    target = console(width, height)
    target.print(renderable)
    return text_of(target)


def running() -> RunHistory:
    return RunHistory.from_events(Sample(steps=120, planned_steps=240, finish=None).events())


def test_live_at_80_columns() -> None:
    assert rendered(render(running()), 80) == LIVE_80


def test_live_at_62_columns_leaves_columns_out() -> None:
    assert rendered(render(RunHistory.from_events(resumed())), 62) == LIVE_62


def test_live_below_60_columns_is_a_plain_line() -> None:
    assert rendered(render(RunHistory.from_events(resumed())), 50) == LIVE_50


def test_summary_at_80_columns() -> None:
    assert rendered(summary(RunHistory.from_events(resumed())), 80) == SUMMARY_80


def test_memory_of_two_units_is_not_cut_at_80_columns() -> None:
    events = Sample(steps=3).events()
    for chip in events[0]["chips"]:
        chip |= {"name": f"chip-1x-{chip['rank']}", "memory_available_bytes": 2 * 10**9}
    for event in events:
        if event["event"] == "step":
            for rank, chip in enumerate(event["chips"]):
                chip |= {"name": f"chip-1x-{rank}", "memory_bytes": 8 * 10**7}
    text = rendered(summary(RunHistory.from_events(events)), 80)
    assert "76.3 MiB of 1.86 GiB" in text
    assert "…" not in text


@pytest.mark.parametrize("height", [10, 16, 24, 40])
@pytest.mark.parametrize("width", [60, 80, 132])
def test_live_fits_the_terminal(width: int, height: int) -> None:
    history = RunHistory.from_events(Sample(sixteen(), steps=30).events())
    lines = rendered(render(history), width, height).splitlines()
    assert len(lines) < height
    assert max(len(line) for line in lines) <= width
    hidden = [line for line in lines if line.startswith("and ")]
    shown = sum(line.startswith("node") for line in lines)
    assert shown == 16 or hidden == [f"and {16 - shown} more"]


def test_the_last_problem_stays_in_view() -> None:
    events = resumed()
    events += [{"event": "message", "time": 2e9, "text": f"note {n}"} for n in range(5)]
    text = rendered(render(RunHistory.from_events(events)), 80)
    assert "checkpoint failed" in text
    assert "note 4" in text


def test_a_loss_that_is_not_finite_and_names_with_markup() -> None:
    sample = Sample(steps=5, finish="failed", losses={5: math.nan}, name="[red]run[/red]")
    history = RunHistory.from_events(sample.events())
    text = rendered(render(history), 80)
    assert "loss not finite" in text
    assert "[red]run[/red]" in text
    assert "failed" in rendered(summary(history), 80)


def test_an_impossible_utilisation_is_shown_as_such() -> None:
    events = Sample(steps=4).events()
    events[0]["chips"][2]["peak_flops_per_s"] /= 100
    history = RunHistory.from_events(events)
    assert "> 100 %" in rendered(render(history), 80)
    assert "cannot be" in rendered(summary(history), 80)


def test_a_run_that_has_only_started() -> None:
    history = RunHistory.from_events([Sample().started()])
    text = rendered(render(history), 80)
    assert "no step yet" in text
    assert "gpu-a" in text
    assert "unknown" in rendered(summary(history), 80)


def test_sparkline() -> None:
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8]) == "▁▂▃▄▅▆▇█"
    assert sparkline([1, math.nan, 8]) == "▁ █"
    assert sparkline([]) == ""
    assert sparkline([2.0]) == "▅"


def growing(folder: Path, sample: Sample) -> Callable[[], bool]:
    """A stop condition that, each time it is asked, appends the next part of the run."""
    lines = [json.dumps(event) + "\n" for event in sample.events()]
    parts = [lines[start : start + 7] for start in range(0, len(lines), 7)]
    path = folder / "events.jsonl"

    def stop() -> bool:
        if not parts:
            return True
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(parts.pop(0)))
        return False

    return stop


def test_follow_without_a_terminal_prints_a_line_every_few_steps(tmp_path: Path) -> None:
    target = console()
    stop = growing(tmp_path, Sample(steps=25))
    follow(tmp_path / "events.jsonl", stop, console=target, poll_s=0, every_steps=10)
    lines = text_of(target).splitlines()
    assert lines[0] == "run started: started on 5 chips"
    assert [line.split(" · ")[0] for line in lines[1:]] == [
        "step 10 of 25", "validation at step 10: loss 6.6952",
        "step 20 of 25", "validation at step 20: loss 4.9485",
        "run finished at step 25: done", "step 25 of 25",
    ]  # fmt: skip


def test_follow_does_not_tell_the_past_again(tmp_path: Path) -> None:
    first = Sample(steps=20, planned_steps=30, finish=None)
    write_run(tmp_path, first.events())
    target = console()
    stop = growing(tmp_path, Sample(steps=30, resumed_from=20, start=first.start + 100))
    follow(tmp_path / "events.jsonl", stop, console=target, poll_s=0)
    lines = text_of(target).splitlines()
    assert lines[0] == "run started: resumed from step 20 on 5 chips"
    assert not any(line.startswith("step 10") for line in lines)
    assert any(line.startswith("step 30 of 30 · loss") for line in lines)


def test_follow_in_a_terminal_ends_with_the_last_state(tmp_path: Path) -> None:
    target = console(is_terminal=True)
    stop = growing(tmp_path, Sample(steps=12))
    follow(tmp_path / "events.jsonl", stop, console=target, poll_s=0)
    text = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", text_of(target))
    assert "Waiting for the run to start." in text
    assert text.rstrip().splitlines()[-1].startswith("run finished at step 12: done")


def test_follow_in_a_narrow_terminal_is_plain(tmp_path: Path) -> None:
    target = console(width=50, is_terminal=True)
    follow(tmp_path / "events.jsonl", growing(tmp_path, Sample(steps=4)), console=target, poll_s=0)
    assert "─" not in text_of(target)


def test_follow_stops_at_a_foreign_file(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text("not a log\n")
    with pytest.raises(RunFolderError, match="line 1"):
        follow(tmp_path / "events.jsonl", lambda: True, console=console(), poll_s=0)


def test_follow_of_a_run_that_never_starts_says_nothing(tmp_path: Path) -> None:
    target = console()
    follow(tmp_path / "events.jsonl", lambda: True, console=target, poll_s=0)
    assert text_of(target) == ""
