"""A run while it runs: a table that keeps itself up to date, or plain lines where none fits.

follow(run_folder / "events.jsonl", stop=training_has_ended)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from motley.events import Event, EventTail
from motley.report.figures import RunFigures, run_figures
from motley.report.history import HistoryBuilder, RunHistory
from motley.report.records import Notice
from motley.report.terminal import (
    chip_table,
    loss_now,
    notice_text,
    plain_line,
    sparkline,
    speed_text,
)
from motley.report.words import loss_text

RECENT_STEPS = 20
"""The live figures are medians of so many steps."""
NARROWEST = 60
"""Columns below which there are plain lines only."""
MOST_NOTICES = 3
HEADER_LINES = 3
TABLE_HEAD_LINES = 3
"""Title, rule and the empty line before."""
SHOWN_KINDS = frozenset({"message", "chip_lost", "checkpoint_failed", "run_finished"})


def render(history: RunHistory) -> RenderableType:
    """The state of a run, in the shape that the terminal at hand has room for."""
    return LiveView(history)


@dataclass(frozen=True)
class LiveView:
    """A header of three lines, a row per chip, the last messages and always the last problem."""

    history: RunHistory

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        figures = run_figures(self.history, self.history.segments[-1], last=RECENT_STEPS)
        width = options.max_width
        if width < NARROWEST:
            yield Text(plain_line(self.history, figures))
            return
        notices = _recent(self.history)
        height = options.height or options.size.height
        below = len(notices) + 2 if notices else 1
        rows = max(1, height - HEADER_LINES - TABLE_HEAD_LINES - below)
        yield _progress(self.history, width)
        yield _losses(self.history, can_draw=not options.ascii_only)
        yield _one_line(speed_text(figures))
        if figures.chips:
            yield Text()
            yield chip_table(figures, width, rows)
        if notices:
            yield Text()
        for notice in notices:
            yield _notice_line(notice)


def _recent(history: RunHistory) -> list[Notice]:
    said = [notice for notice in history.notices if notice.kind in SHOWN_KINDS]
    last = said[-MOST_NOTICES:]
    problems = [notice for notice in said if notice.is_problem]
    if problems and not any(notice.is_problem for notice in last):
        last[0] = problems[-1]
    return last


def _progress(history: RunHistory, width: int) -> RenderableType:
    name = Text(history.run, style="bold", no_wrap=True, overflow="ellipsis")
    steps = Text(history.how_far, no_wrap=True)
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(max_width=width // 3)
    grid.add_column(no_wrap=True)
    if history.done_of is None:
        grid.add_row(name, steps)
        return grid
    grid.add_column(ratio=1)
    done, whole = history.done_of
    bar = ProgressBar(total=whole, completed=min(done, whole))
    grid.add_row(name, steps, bar)
    return grid


def _losses(history: RunHistory, *, can_draw: bool) -> Text:
    parts = [loss_now(history)]
    if can_draw and len(history.steps) > 1:
        parts.append(sparkline([step.loss for step in history.steps]))
    if history.validations:
        last = history.validations[-1]
        parts.append(f"validation {loss_text(last.loss)} at step {last.step}")
    return _one_line("  ".join(parts))


def _one_line(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


def _notice_line(notice: Notice) -> Text:
    line = _one_line(notice_text(notice))
    line.stylize("red" if notice.is_problem else "dim")
    return line


def follow(
    path: Path,
    stop: Callable[[], bool],
    *,
    console: Console | None = None,
    poll_s: float = 0.5,
    every_steps: int = 10,
) -> None:
    """Show the run whose events are written to `path` until `stop()`, then its last state.

    On a terminal of 60 columns and more a live table; else a plain line every `every_steps` steps
    and one for each message. What the file holds at the begin is not told again line by line.
    """
    console = console or Console()
    if console.is_terminal and console.width >= NARROWEST:
        _follow_live(path, stop, console, poll_s)
    else:
        _follow_plain(path, stop, console, poll_s, every_steps)


def _follow_live(path: Path, stop: Callable[[], bool], console: Console, poll_s: float) -> None:
    builder = HistoryBuilder()
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        for events in _polls(path, stop, poll_s):
            for event in events:
                builder.add(event)
            waiting = Text("Waiting for the run to start.", style="dim")
            shown = render(builder.history()) if builder.has_started else waiting
            live.update(Group(shown), refresh=True)


def _follow_plain(
    path: Path, stop: Callable[[], bool], console: Console, poll_s: float, every_steps: int
) -> None:
    builder, lines = HistoryBuilder(), PlainLines(every_steps=every_steps)
    is_old = True
    for events in _polls(path, stop, poll_s):
        for event in events:
            builder.add(event)
            is_told = event["event"] in ("step", *SHOWN_KINDS, "run_started", "validation")
            if not is_old and is_told and builder.has_started:
                lines.take(event["event"], builder.history())
        is_old = False
        for line in lines.drain():
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    if builder.has_started:
        for line in lines.last(builder.history()):
            console.print(line, markup=False, highlight=False, soft_wrap=True)


@dataclass
class PlainLines:
    """Chooses the lines to print, and remembers the last one so that none comes twice."""

    every_steps: int = 10
    _waiting: list[str] = field(default_factory=list)
    _last_step: int = -1

    def take(self, kind: str, history: RunHistory) -> None:
        """Note what the latest event, of this kind, adds."""
        if kind == "step":
            if history.last_step % self.every_steps == 0:
                self._step(history)
        elif kind == "validation":
            last = history.validations[-1]
            self._waiting.append(f"validation at step {last.step}: loss {loss_text(last.loss)}")
        else:
            self._waiting.append(notice_text(history.notices[-1]))

    def drain(self) -> list[str]:
        """The lines since the last call."""
        lines, self._waiting = self._waiting, []
        return lines

    def last(self, history: RunHistory) -> list[str]:
        """The state at the end, unless it was the last line already."""
        if history.steps and history.last_step != self._last_step:
            self._step(history)
        return self.drain()

    def _step(self, history: RunHistory) -> None:
        self._last_step = history.last_step
        self._waiting.append(plain_line(history, _recent_figures(history)))


def _recent_figures(history: RunHistory) -> RunFigures:
    return run_figures(history, history.segments[-1], last=RECENT_STEPS)


def _polls(path: Path, stop: Callable[[], bool], poll_s: float) -> Iterator[list[Event]]:
    """The new events at each look; one more look after `stop`, so that nothing is missed."""
    tail = EventTail(path)
    yield tail.read()
    while not stop():
        time.sleep(poll_s)
        yield tail.read()
    yield tail.read()
