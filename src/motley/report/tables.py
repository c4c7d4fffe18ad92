"""The page's tables: chips, predicted against measured, the log and the resolved recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from motley.report.figures import ChipFigures, RunFigures
from motley.report.history import RunHistory
from motley.report.markup import Child, Markup, join, tag
from motley.report.records import Notice
from motley.report.words import UNKNOWN, layers_text, shown, stage_text
from motley.units import Source, duration, percent, si, size

LARGE_ERROR = 0.10
"""A prediction that is off by more than this is marked."""


def badge(source: Source) -> Markup:
    """Where a figure comes from."""
    return tag("span", source, class_=f"badge {source}")


def time_text(seconds: float) -> str:
    """Unix seconds as a date and time, UTC."""
    return shown(seconds, lambda at: f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC")


def table(head: Sequence[str], rows: Sequence[Sequence[Child]], label: str) -> Markup:
    """A table that scrolls inside its own box where the page is too narrow; texts to the left."""
    titles = tag("tr", *[tag("th", title, scope="col") for title in head])
    body = [
        tag("tr", tag("th", row[0], scope="row"), *[tag("td", cell) for cell in row[1:]])
        for row in rows
    ]
    inner = tag("table", tag("thead", titles), tag("tbody", *body))
    return tag("div", inner, class_="scroll", role="region", aria_label=label, tabindex=0)


def chips_table(figures: RunFigures) -> Markup:
    head = (
        "chip", "stage", "layers", "precision", "tokens/s", "share of tokens",
        "of its peak", "peak", "waiting",
    )  # fmt: skip
    return table(head, [_chip_row(chip) for chip in figures.chips], "Chips")


def _chip_row(figures: ChipFigures) -> list[Child]:
    chip = figures.chip
    kind = " · ".join(part for part in (chip.kind, chip.device) if part)
    name = join([tag("b", chip.name), " ", badge(chip.source), tag("small", kind)])
    return [
        name,
        stage_text(chip),
        layers_text(chip),
        chip.precision,
        shown(figures.tokens_per_s, si),
        shown(figures.token_share, percent),
        _meter(figures),
        _peak(figures),
        shown(figures.waiting_share, percent),
    ]


def _meter(figures: ChipFigures) -> Markup:
    if figures.utilisation is None:
        word = "impossible" if figures.warning else UNKNOWN
        return tag("span", word, class_="problem" if figures.warning else "muted")
    style = f"width:{figures.utilisation:.1%}"
    bar = tag("i", tag("i", style=style), class_="meter", aria_hidden="true")
    return join([bar, percent(figures.utilisation)])


def _peak(figures: ChipFigures) -> Markup:
    chip = figures.chip
    known = chip.peak_flops_per_s > 0
    written = shown(chip.peak_flops_per_s if known else None, lambda rate: si(rate, "FLOP/s"))
    parts: list[Child] = [written, " ", badge(chip.peak_source) if known else None]
    if figures.quoted_utilisation is not None:
        quoted = si(chip.quoted_peak_flops_per_s, "FLOP/s")
        parts += [f", {percent(figures.quoted_utilisation)} of {quoted} ", badge("quoted")]
    return join(parts)


def predictions_table(figures: RunFigures) -> Markup:
    """The plan's promises, what came, and by how much the promise was off."""
    run = figures.source
    rows = [
        _compare("step time", figures.predicted_step_s, figures.step_s, duration, run),
        _compare("tokens/s", figures.predicted_tokens_per_s, figures.tokens_per_s, si, run),
    ]
    for chip in figures.chips:
        name = f"{chip.chip.name}: computing"
        rows.append(_compare_shares(name, chip.predicted_busy_share, chip.busy_share, chip.source))
    for chip in figures.chips:
        name = f"{chip.chip.name}: memory"
        used = chip.memory_bytes
        rows.append(_compare(name, chip.predicted_memory_bytes, used, size, chip.source))
    head = ("figure", "predicted", "measured", "off by")
    return table(head, rows, "Predicted against measured")


def _compare(
    name: str,
    predicted: float | None,
    measured: float | None,
    write: Callable[[float], str],
    source: Source,
) -> list[Child]:
    error = predicted / measured - 1 if predicted and measured else None
    cells: list[Child] = [name, shown(predicted, write), _came(shown(measured, write), source)]
    return [*cells, _error(error, "%")]


def _compare_shares(
    name: str, predicted: float | None, measured: float | None, source: Source
) -> list[Child]:
    error = None
    if predicted is not None and measured is not None:
        error = predicted - measured
    cells: list[Child] = [name, shown(predicted, percent), _came(shown(measured, percent), source)]
    return [*cells, _error(error, "points")]


def _came(written: str, source: Source) -> Markup:
    """A measured figure; only an emulated one needs to say what it is."""
    return join([written, " ", badge(source)]) if source == "emulated" else join([written])


def _error(error: float | None, unit: str) -> Markup:
    if error is None:
        return tag("span", UNKNOWN, class_="muted")
    is_large = abs(error) > LARGE_ERROR
    return tag("span", f"{error * 100:+.1f} {unit}", class_="problem" if is_large else None)


def log_table(history: RunHistory) -> Markup:
    rows = [_notice_row(notice) for notice in history.notices]
    return table(("time", "step", "event", "what happened"), rows, "Log")


def _notice_row(notice: Notice) -> list[Child]:
    kind = notice.kind.replace("_", " ")
    return [
        time_text(notice.time),
        "" if notice.step is None else str(notice.step),
        tag("span", kind, class_="problem") if notice.is_problem else kind,
        notice.text,
    ]


def recipe_lists(recipe: Mapping[str, Any]) -> Markup:
    """A small list for each of the recipe's tables."""
    top = {key: value for key, value in recipe.items() if not isinstance(value, Mapping)}
    groups: list[tuple[str, Mapping[str, Any]]] = [("recipe", top)] if top else []
    groups += [(key, value) for key, value in recipe.items() if isinstance(value, Mapping)]
    if not groups:
        return tag("p", "The run has recorded no recipe.", class_="note")
    cards = [
        tag("div", tag("h3", name), tag("dl", *_entries(values)), class_="card")
        for name, values in groups
    ]
    return tag("div", *cards, class_="cards")


def _entries(values: Mapping[str, Any]) -> list[Markup]:
    return [
        tag("div", tag("dt", key), tag("dd", _value_text(value))) for key, value in values.items()
    ]


def _value_text(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(_value_text(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {_value_text(item)}" for key, item in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
