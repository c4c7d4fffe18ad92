"""The figures of a run: medians over its steps, each with where it comes from.

The first step of a segment warms up (allocation, compilation, caches) and is left out where there
are others. A utilisation above 100 % of a chip's peak cannot be: then the peak or the FLOP count
is wrong, so it is kept out of every sum and comes with a warning.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from motley.report.history import RunHistory, Segment
from motley.report.records import ChipFacts, ChipStep, Step, number
from motley.units import Source, percent, size


@dataclass(frozen=True, kw_only=True)
class TimeSplit:
    """Where a chip's time of a step went, in seconds."""

    compute: float
    waiting: float
    communication: float
    optimizer: float
    other: float

    @property
    def total(self) -> float:
        return self.compute + self.waiting + self.communication + self.optimizer + self.other

    def parts(self) -> tuple[tuple[str, float], ...]:
        """(name, seconds) in the order in which they are drawn."""
        names = ("compute", "waiting", "communication", "optimizer", "other")
        return tuple((name, getattr(self, name)) for name in names)


@dataclass(frozen=True, kw_only=True)
class ChipFigures:
    """Medians of one chip; None is unknown."""

    chip: ChipFacts
    tokens_per_s: float | None
    token_share: float | None
    """Share of the step's tokens that went through this chip."""
    utilisation: float | None
    """Model FLOP/s over the chip's peak; None if unknown or impossible."""
    warning: str
    """Why the utilisation is not shown; empty if it is."""
    waiting_share: float | None
    busy_share: float | None
    """Computing, without the optimizer: what the plan predicts."""
    memory_bytes: float | None
    """The most that any step took."""
    time: TimeSplit | None
    predicted_busy_share: float | None
    predicted_memory_bytes: float | None

    @property
    def source(self) -> Source:
        return self.chip.source

    @property
    def quoted_utilisation(self) -> float | None:
        """Model FLOP/s over the catalog's peak, beside that over the measured one."""
        if self.utilisation is None or not self.chip.quoted_peak_flops_per_s > 0:
            return None
        return self.utilisation * self.chip.peak_flops_per_s / self.chip.quoted_peak_flops_per_s


@dataclass(frozen=True, kw_only=True)
class RunFigures:
    """Medians of the run; None is unknown."""

    source: Source
    """"emulated" as soon as one chip is: the timings are then no real chip's."""
    chips: tuple[ChipFigures, ...]
    step_s: float | None
    tokens_per_s: float | None
    utilisation: float | None
    """Share of the summed peak of all chips."""
    waiting_share: float | None
    """Mean over the chips."""
    predicted_step_s: float | None
    predicted_tokens_per_s: float | None
    remaining_s: float | None
    """Time to finish, from the wall clock of the steps: with validation and checkpoints."""

    @property
    def quoted_utilisation(self) -> float | None:
        """The same of the catalog's peaks; None while one of them is unknown."""
        quoted = sum(figures.chip.quoted_peak_flops_per_s for figures in self.chips)
        if self.utilisation is None or not quoted > 0:
            return None
        return self.utilisation * sum(f.chip.peak_flops_per_s for f in self.chips) / quoted

    @property
    def step_error(self) -> float | None:
        """Predicted over measured step time, less one: below zero was too hopeful."""
        if self.step_s is None or self.predicted_step_s is None:
            return None
        return self.predicted_step_s / self.step_s - 1

    @property
    def warnings(self) -> tuple[str, ...]:
        impossible = [chip.warning for chip in self.chips if chip.warning]
        too_full = [
            f"{chip.chip.name}: used {size(chip.memory_bytes)}, more than the "
            f"{size(chip.chip.memory_available_bytes)} that training may use."
            for chip in self.chips
            if chip.memory_bytes and chip.memory_bytes > chip.chip.memory_available_bytes
        ]
        return (*impossible, *too_full)


def run_figures(
    history: RunHistory, segment: Segment | None = None, *, last: int | None = None
) -> RunFigures:
    """The figures of one segment (the latest measured one), maybe of its `last` steps only."""
    segment = segment or history.measured_segment
    all_steps = history.steps_of(segment)
    steps = all_steps[1:] or all_steps
    steps = steps if last is None else steps[-last:]
    chips = tuple(_chip_figures(chip, steps, segment) for chip in segment.chips)
    return RunFigures(
        source="emulated" if segment.is_emulated else "measured",
        chips=chips,
        step_s=_positive(_median(step.step_s for step in steps)),
        tokens_per_s=_median(step.tokens_per_s for step in steps),
        utilisation=_utilisation_of_all(chips, steps),
        waiting_share=_mean([chip.waiting_share for chip in chips]),
        predicted_step_s=_positive(segment.predicted.step_s),
        predicted_tokens_per_s=_positive(segment.predicted.tokens_per_s),
        remaining_s=_remaining_s(history, all_steps, last),
    )


def _chip_figures(chip: ChipFacts, steps: Sequence[Step], segment: Segment) -> ChipFigures:
    did = [(step, step.chips[chip.name]) for step in steps if chip.name in step.chips]

    def median(figure: Callable[[Step, ChipStep], float]) -> float | None:
        return _median(figure(step, part) for step, part in did)

    utilisation = median(lambda step, part: _over(part.flops, step.step_s * chip.peak_flops_per_s))
    warning = ""
    if utilisation is not None and utilisation > 1.0:
        warning = (
            f"{chip.name}: {percent(utilisation)} of its {chip.peak_source} peak cannot be. "
            "Its peak is set too low: measure it with 'motley probe'."
        )
    memory = [part.memory_bytes for _, part in did if part.memory_bytes > 0]
    return ChipFigures(
        chip=chip,
        tokens_per_s=median(lambda step, part: _over(part.tokens, step.step_s)),
        token_share=median(lambda step, part: _over(part.tokens, step.tokens)),
        utilisation=None if warning else utilisation,
        warning=warning,
        waiting_share=median(lambda step, part: _over(part.wait_s, step.step_s)),
        busy_share=median(lambda step, part: _over(part.compute_s, step.step_s)),
        memory_bytes=max(memory, default=None),
        time=_time_split(did),
        predicted_busy_share=_finite(segment.predicted.busy_share.get(chip.name)),
        predicted_memory_bytes=_positive(segment.predicted.memory_bytes.get(chip.name)),
    )


def _time_split(did: Sequence[tuple[Step, ChipStep]]) -> TimeSplit | None:
    """Means, which add up as medians do not; "other" is what no figure explains."""
    if not did:
        return None

    def mean(values: Iterable[float]) -> float:
        finite = [max(0.0, value) for value in values if math.isfinite(value)]
        return statistics.fmean(finite) if finite else 0.0

    compute = mean(part.compute_s for _, part in did)
    waiting = mean(part.wait_s for _, part in did)
    communication = mean(part.communication_s for _, part in did)
    optimizer = mean(part.optimizer_s for _, part in did)
    step_s = mean(step.step_s for step, _ in did)
    return TimeSplit(
        compute=compute,
        waiting=waiting,
        communication=communication,
        optimizer=optimizer,
        other=max(0.0, step_s - compute - waiting - communication - optimizer),
    )


def _utilisation_of_all(chips: Sequence[ChipFigures], steps: Sequence[Step]) -> float | None:
    """FLOP/s of all chips over the sum of their peaks; None while one of them is unknown."""
    peak = sum(figures.chip.peak_flops_per_s for figures in chips)
    if not chips or any(figures.utilisation is None for figures in chips):
        return None
    return _median(
        _over(sum(part.flops for part in step.chips.values()), step.step_s * peak) for step in steps
    )


def _remaining_s(history: RunHistory, steps: Sequence[Step], last: int | None) -> float | None:
    if history.done_of is None or history.state != "running" or not steps:
        return None
    done, whole = history.done_of
    left = max(0, whole - done)
    if history.num_rounds is not None:
        return _rounds_s(history, left, last)
    recent = steps[1:] if last is None else steps[1:][-last:]
    if len(recent) > 1 and recent[-1].time > recent[0].time:
        return left * (recent[-1].time - recent[0].time) / (len(recent) - 1)
    return _positive(left * steps[-1].step_s)


def _rounds_s(history: RunHistory, num_rounds: int, last: int | None) -> float | None:
    """What so many rounds will take, at the pace of the last ones."""
    recent = history.rounds[-last:] if last else history.rounds
    if len(recent) < 2:
        return None
    first, newest = recent[0], recent[-1]
    passed = number(newest, "round") - number(first, "round")
    return _positive(num_rounds * _over(number(newest, "time") - number(first, "time"), passed))


def _over(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan


def _median(values: Iterable[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return statistics.median(finite) if finite else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _positive(value: float | None) -> float | None:
    known = _finite(value)
    return known if known is not None and known > 0 else None
