"""The history of a run, put together from its events.

A run that was resumed has several segments in one file, maybe on other chips. Training goes on
from a checkpoint, so what an earlier segment did after it no longer counts: a step has one record,
the latest. `HistoryBuilder` takes events one by one, which the live view needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from motley.errors import RunFolderError
from motley.events import EVENTS_FILE, Event, read_events
from motley.report.records import (
    ChipFacts,
    Notice,
    Prediction,
    Step,
    Timeline,
    Validation,
    chip_facts,
    number,
    prediction,
    spans_of,
    step_record,
    text,
    validation_record,
)
from motley.report.words import plural, shown
from motley.units import duration, size

T = TypeVar("T")

BEFORE_THE_START = frozenset({"run_started", "message", "chip_lost", "run_finished"})
"""Events of a run whose processes could not be started, until it is tried again."""

State = Literal["running", "done", "stopped", "failed"]
"""A run that says nothing of its end is "running": it may also have been killed."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """From one start (or resumption) of the run to the next."""

    index: int
    chips: tuple[ChipFacts, ...]
    predicted: Prediction
    started: float
    """Unix seconds."""
    last_seen: float
    resumed_from: int | None
    num_repeated: int
    """Steps that an earlier segment had done and that do not count."""

    @property
    def is_emulated(self) -> bool:
        return any(chip.emulated for chip in self.chips)


@dataclass(frozen=True, kw_only=True)
class RunHistory:
    """All that is known of a run; steps and the rest in the order of steps, each once."""

    run: str
    recipe: Mapping[str, Any]
    parameters: float
    flops_per_token: float
    segments: tuple[Segment, ...]
    steps: tuple[Step, ...]
    validations: tuple[Validation, ...]
    timelines: tuple[Timeline, ...]
    notices: tuple[Notice, ...]
    rounds: tuple[Event, ...]
    """Of the federation that the run takes part in: events, each round once."""
    updates: tuple[Event, ...]
    """What the run has published there."""
    num_rounds: int | None
    """Of the federation's whole training, if the run takes part in one and says so."""
    state: State

    @classmethod
    def from_events(cls, events: Iterable[Event]) -> RunHistory:
        """`RunFolderError` if the events are not those of a run."""
        builder = HistoryBuilder()
        for event in events:
            builder.add(event)
        return builder.history()

    @classmethod
    def load(cls, run_folder: Path) -> RunHistory:
        """The history of a run folder; `RunFolderError` if it is not one."""
        if not run_folder.is_dir():
            raise RunFolderError(
                f"{run_folder}: no such folder.",
                remedy="Name the folder of a run that 'motley train' has made.",
            )
        return cls.from_events(read_events(run_folder / EVENTS_FILE))

    @property
    def last_step(self) -> int:
        return self.steps[-1].step if self.steps else self.segments[-1].resumed_from or 0

    @property
    def failure(self) -> str:
        """What was said just before the run failed; empty if it did not fail or nothing was."""
        if self.state != "failed" or len(self.notices) < 2:
            return ""
        *_, before, _ = self.notices
        return before.text if before.kind == "message" else ""

    @property
    def num_steps(self) -> int | None:
        """Steps that the recipe asks for, if it says; in a federation a party takes its own."""
        if self.num_rounds is not None:
            return None
        schedule = self.recipe.get("schedule")
        steps = schedule.get("steps") if isinstance(schedule, Mapping) else None
        return steps if isinstance(steps, int) and steps > 0 else None

    @property
    def num_rounds_done(self) -> int:
        """Of the federation; those before the run came to it count."""
        last = number(self.rounds[-1], "round") if self.rounds else math.nan
        return int(last) + 1 if math.isfinite(last) else 0

    @property
    def done_of(self) -> tuple[int, int] | None:
        """How much is done and how much there is: rounds in a federation, else steps."""
        if self.num_rounds is not None:
            return min(self.num_rounds_done, self.num_rounds), self.num_rounds
        return (self.last_step, self.num_steps) if self.num_steps else None

    @property
    def how_far(self) -> str:
        """ "step 120 of 240", or "step 120, 3 of 40 rounds"."""
        if self.num_rounds is not None:
            return f"step {self.last_step}, {self.num_rounds_done} of {self.num_rounds} rounds"
        return f"step {self.last_step}" + (f" of {self.num_steps}" if self.num_steps else "")

    @property
    def tokens(self) -> float:
        """Tokens trained on, each step once."""
        return sum(step.tokens for step in self.steps if step.tokens > 0)

    @property
    def elapsed_s(self) -> float:
        """Time in which the run was running, all segments."""
        return sum(max(0.0, part.last_seen - part.started) for part in self.segments)

    @property
    def measured_segment(self) -> Segment:
        """The latest segment that has a step of its own; the latest one if none has."""
        for segment in reversed(self.segments):
            if self.steps_of(segment):
                return segment
        return self.segments[-1]

    def steps_of(self, segment: Segment) -> tuple[Step, ...]:
        """The steps that this segment did and that still count."""
        return tuple(step for step in self.steps if step.segment == segment.index)


@dataclass
class HistoryBuilder:
    """Gathers events; `history` gives what they make so far."""

    _run: str = ""
    _recipe: Mapping[str, Any] = field(default_factory=dict)
    _parameters: float = 0.0
    _flops_per_token: float = 0.0
    _segments: list[Segment] = field(default_factory=list)
    _steps: dict[int, Step] = field(default_factory=dict)
    _validations: dict[int, Validation] = field(default_factory=dict)
    _timelines: dict[int, Timeline] = field(default_factory=dict)
    _notices: list[Notice] = field(default_factory=list)
    _rounds: dict[int, Event] = field(default_factory=dict)
    _updates: list[Event] = field(default_factory=list)
    _num_rounds: int | None = None
    _state: State = "running"
    _num_events: int = 0

    @property
    def has_started(self) -> bool:
        return bool(self._segments)

    def add(self, event: Event) -> None:
        """Take the next event; `RunFolderError` if it makes no sense. Unknown events pass."""
        self._num_events += 1
        name = event.get("event", "")
        if not self._segments and name not in BEFORE_THE_START:
            raise RunFolderError(
                f"event {self._num_events} ('{name}') comes before any 'run_started'.",
                remedy="Name the folder of a run that 'motley train' has made.",
            )
        handlers: dict[str, Callable[[Event], None]] = {
            "run_started": self._start,
            "step": self._step,
            "validation": self._validation,
            "timeline": self._timeline,
            "run_finished": self._finish,
            "federation_round": self._federation_round,
            "federation_update": self._updates.append,
        }
        try:
            handlers.get(name, self._notice)(event)
            self._see(number(event, "time"))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as cause:
            reason = f"'{cause.args[0]}' is missing" if isinstance(cause, KeyError) else cause
            raise RunFolderError(
                f"event {self._num_events} ('{name}') is not as motley writes it: {reason}.",
                remedy="Was it written by another version?",
            ) from None

    def history(self) -> RunHistory:
        """The history so far; `RunFolderError` before the run has started."""
        if not self._segments:
            said = "".join(f" {notice.text}" for notice in self._notices[:1])
            raise RunFolderError(
                f"the run has not started.{said}", remedy="Start it with 'motley train'."
            )
        return RunHistory(
            run=self._run,
            recipe=self._recipe,
            parameters=self._parameters,
            flops_per_token=self._flops_per_token,
            segments=tuple(self._segments),
            steps=_in_order(self._steps),
            validations=_in_order(self._validations),
            timelines=_in_order(self._timelines),
            notices=tuple(self._notices),
            rounds=_in_order(self._rounds),
            updates=tuple(self._updates),
            num_rounds=self._num_rounds,
            state=self._state,
        )

    def _start(self, event: Event) -> None:
        resumed = event.get("resumed_from")
        at = int(resumed or 0)
        repeated = sum(step > at for step in self._steps)
        self._steps = _until(at, self._steps)
        self._validations = _until(at, self._validations)
        self._timelines = _until(at, self._timelines)
        self._run, self._recipe = text(event, "run"), event.get("recipe") or {}
        self._parameters = number(event, "parameters")
        self._flops_per_token = number(event, "flops_per_token")
        self._num_rounds = event.get("num_rounds") and int(event["num_rounds"])
        self._state = "running"
        chips = tuple(chip_facts(chip) for chip in event.get("chips") or ())
        self._segments.append(
            Segment(
                index=len(self._segments),
                chips=tuple(sorted(chips, key=lambda chip: chip.rank)),
                predicted=prediction(event.get("predicted") or {}),
                started=number(event, "time"),
                last_seen=number(event, "time"),
                resumed_from=None if resumed is None else at,
                num_repeated=repeated,
            )
        )
        said = "started" if resumed is None else f"resumed from step {at}"
        again = f"; {plural(repeated, 'later step')} done again" if repeated else ""
        self._say(event, f"{said} on {plural(len(chips), 'chip')}{again}")

    def _see(self, time: float) -> None:
        if not self._segments:
            return
        segment = self._segments[-1]
        if time > segment.last_seen:
            self._segments[-1] = replace(segment, last_seen=time)

    def _step(self, event: Event) -> None:
        record = step_record(event, len(self._segments) - 1)
        self._steps[record.step] = record

    def _validation(self, event: Event) -> None:
        record = validation_record(event)
        self._validations[record.step] = record

    def _timeline(self, event: Event) -> None:
        step = int(event["step"])
        self._timelines[step] = Timeline(step=step, spans=spans_of(event))

    def _federation_round(self, event: Event) -> None:
        self._rounds[int(event["round"])] = event

    def _finish(self, event: Event) -> None:
        reason = text(event, "reason")
        ends: dict[str, State] = {"done": "done", "failed": "failed"}
        self._state = ends.get(reason, "stopped")
        self._say(event, reason or "ended", is_problem=reason == "failed")

    def _notice(self, event: Event) -> None:
        name = event["event"]
        if name == "message":
            self._say(event, text(event, "text"))
        elif name == "checkpoint":
            written = shown(number(event, "bytes"), size)
            took = shown(number(event, "seconds"), duration)
            self._say(event, f"{text(event, 'path')}: {written} in {took}")
        elif name == "checkpoint_failed":
            self._say(event, text(event, "reason"), is_problem=True)
        elif name == "chip_lost":
            rank = "" if event.get("rank") is None else f" (rank {event['rank']})"
            chip, reason = text(event, "chip"), text(event, "reason")
            lost = reason if f"'{chip}'" in reason else f"{chip}{rank}: {reason}"
            self._say(event, lost, is_problem=True)

    def _say(self, event: Event, said: str, *, is_problem: bool = False) -> None:
        step = event.get("step")
        self._notices.append(
            Notice(
                time=number(event, "time"),
                step=None if step is None else int(step),
                kind=event["event"],
                text=said,
                is_problem=is_problem,
            )
        )


def _in_order(records: dict[int, T]) -> tuple[T, ...]:
    return tuple(records[step] for step in sorted(records))


def _until(step: int, records: dict[int, T]) -> dict[int, T]:
    return {key: record for key, record in records.items() if key <= step}
