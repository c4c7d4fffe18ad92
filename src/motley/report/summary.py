"""`motley report`: a run in a terminal, or as JSON for other programs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from motley.report.figures import ChipFigures, RunFigures, TimeSplit, run_figures
from motley.report.history import RunHistory
from motley.report.terminal import chip_table, notice_text
from motley.report.words import STATE_WORDS, loss_text, plural, shown
from motley.units import Source, duration, percent, si

MOST_PROBLEMS = 5


@dataclass(frozen=True)
class _Chips:
    """The table of chips, with the columns that the terminal has room for."""

    figures: RunFigures

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield chip_table(self.figures, options.max_width)


def summary(history: RunHistory) -> RenderableType:
    """The run's figures, its chips, and what went wrong, for a terminal."""
    figures = run_figures(history)
    title = Text.assemble((history.run, "bold"), f"  {STATE_WORDS[history.state]}, ")
    title.append(f"{history.how_far}, {plural(len(figures.chips), 'chip')}")
    parts: list[RenderableType] = [title, Text(), _facts(history, figures)]
    if figures.chips:
        parts += [Text(), _Chips(figures)]
    problems = [notice_text(notice) for notice in history.notices if notice.is_problem]
    why = [history.failure] if history.failure else []
    said = [*figures.warnings, *problems[-MOST_PROBLEMS:], *why]
    if said:
        parts += [Text(), *[Text(line, style="red") for line in said]]
    return Group(*parts)


def _facts(history: RunHistory, figures: RunFigures) -> Table:
    grid = Table.grid(padding=(0, 2))
    for row in _fact_rows(history, figures):
        grid.add_row(*row)
    return grid


def _fact_rows(history: RunHistory, figures: RunFigures) -> list[tuple[str, str, str]]:
    source, error = figures.source, figures.step_error
    off = "" if error is None else f", off by {error * 100:+.1f} %"
    rows = [
        ("step time", shown(figures.step_s, duration), source),
        ("", shown(figures.predicted_step_s, duration), f"predicted{off}"),
        ("tokens/s", shown(figures.tokens_per_s, si), source),
        ("of the summed peak", shown(figures.utilisation, percent), source),
        *_quoted(figures),
        ("waiting, mean of chips", shown(figures.waiting_share, percent), source),
        ("tokens trained", si(history.tokens), "measured"),
        ("time running", duration(history.elapsed_s), source),
    ]
    if history.steps:
        rows.append(("training loss", loss_text(history.steps[-1].loss), "measured"))
    if history.validations:
        last = history.validations[-1]
        bits = shown(last.bits_per_byte, lambda value: f", {value:.3f} bits per byte", "")
        rows.append(("validation loss", loss_text(last.loss), f"measured{bits}"))
    if figures.remaining_s:
        rows.append(("time to finish", duration(figures.remaining_s), "predicted"))
    return rows


def _quoted(figures: RunFigures) -> list[tuple[str, str, str]]:
    if figures.quoted_utilisation is None:
        return []
    return [("of the quoted peaks", percent(figures.quoted_utilisation), figures.source)]


def summary_dict(history: RunHistory) -> dict[str, Any]:
    """The same for programs: SI units, each figure with its source, null where unknown."""
    figures = run_figures(history)
    source = figures.source
    last = history.validations[-1] if history.validations else None
    return {
        "run": history.run,
        "state": history.state,
        "step": history.last_step,
        "num_steps": history.num_steps,
        "num_rounds": history.num_rounds,
        "parameters": _number(history.parameters),
        "tokens": history.tokens,
        "elapsed_s": _figure(history.elapsed_s, source),
        "training_loss": _figure(history.steps[-1].loss if history.steps else None, "measured"),
        "validation_loss": _figure(last.loss if last else None, "measured"),
        "bits_per_byte": _figure(last.bits_per_byte if last else None, "measured"),
        "step_s": _figure(figures.step_s, source),
        "predicted_step_s": _figure(figures.predicted_step_s, "predicted"),
        "predicted_step_error": _number(figures.step_error),
        "tokens_per_s": _figure(figures.tokens_per_s, source),
        "predicted_tokens_per_s": _figure(figures.predicted_tokens_per_s, "predicted"),
        "utilisation": _figure(figures.utilisation, source),
        "utilisation_of_quoted": _figure(figures.quoted_utilisation, source),
        "waiting_share": _figure(figures.waiting_share, source),
        "remaining_s": _figure(figures.remaining_s, "predicted"),
        "chips": [_chip_dict(chip) for chip in figures.chips],
        "warnings": list(figures.warnings),
        "problems": [notice_text(notice) for notice in history.notices if notice.is_problem],
    }


def _chip_dict(figures: ChipFigures) -> dict[str, Any]:
    chip, source = figures.chip, figures.source
    return {
        "name": chip.name,
        "kind": chip.kind,
        "rank": chip.rank,
        "replica": chip.replica,
        "stage": chip.position,
        "layers": [chip.first_layer, chip.last_layer],
        "peak_flops_per_s": _figure(chip.peak_flops_per_s, chip.peak_source),
        "quoted_peak_flops_per_s": _figure(chip.quoted_peak_flops_per_s, "quoted"),
        "tokens_per_s": _figure(figures.tokens_per_s, source),
        "utilisation": _figure(figures.utilisation, source),
        "utilisation_of_quoted": _figure(figures.quoted_utilisation, source),
        "waiting_share": _figure(figures.waiting_share, source),
        "busy_share": _figure(figures.busy_share, source),
        "predicted_busy_share": _figure(figures.predicted_busy_share, "predicted"),
        "memory_bytes": _figure(figures.memory_bytes, source),
        "predicted_memory_bytes": _figure(figures.predicted_memory_bytes, "predicted"),
        "memory_available_bytes": _number(chip.memory_available_bytes),
        "time_s": _time_dict(figures.time),
    }


def _time_dict(split: TimeSplit | None) -> dict[str, float] | None:
    return None if split is None else dict(split.parts())


def _figure(value: float | None, source: Source) -> dict[str, Any]:
    return {"value": _number(value), "source": source}


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
