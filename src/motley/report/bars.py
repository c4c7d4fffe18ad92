"""Bars: where each chip's time went, and how full its memory was."""

from __future__ import annotations

from motley.report.figures import ChipFigures, RunFigures
from motley.report.markup import Markup, join, tag
from motley.report.tables import badge
from motley.report.words import UNKNOWN, shown
from motley.units import duration, percent, size

LABEL_SHARE = 0.09
"""A part wider than this share of the bar has its percentage written in it."""

PARTS = (
    ("compute", "compute (forward and backward)"),
    ("waiting", "waiting for a neighbour"),
    ("communication", "communication, not hidden"),
    ("optimizer", "optimizer"),
    ("other", "other"),
)


def time_section(figures: RunFigures) -> Markup:
    """A stacked bar per chip, all on one scale."""
    longest = max((chip.time.total for chip in figures.chips if chip.time), default=0.0)
    if not longest:
        return tag("p", "No step has been measured yet.", class_="note")
    rows = [_time_row(chip, longest) for chip in figures.chips]
    keys = [tag("li", tag("i", class_=f"box {kind}"), said) for kind, said in PARTS]
    return join([tag("div", *rows, class_="bars"), tag("ul", *keys, class_="legend")])


def _time_row(figures: ChipFigures, longest: float) -> Markup:
    if figures.time is None:
        return _row(figures, tag("p", "not measured", class_="muted"), "")
    whole = figures.time.total
    parts, said = [], []
    for kind, seconds in figures.time.parts():
        if seconds <= 0:
            continue
        words = f"{kind} {percent(seconds / whole)} ({duration(seconds)})"
        said.append(words)
        label = f"{seconds / whole * 100:.0f} %" if seconds / longest >= LABEL_SHARE else ""
        parts.append(
            tag(
                "span",
                tag("span", label),
                class_=f"part {kind}",
                style=f"width:{seconds / longest:.3%}",
                data_tip=f"{figures.chip.name}: {words}, {figures.source}",
            )
        )
    label = f"{figures.chip.name}: {', '.join(said)}"
    bar = tag("div", *parts, class_="bar", role="img", aria_label=label)
    return _row(figures, bar, duration(whole))


def memory_section(figures: RunFigures) -> Markup:
    """A bar per chip: the most that was used, of what training may use, and the prediction."""
    keys = [
        tag("li", tag("i", class_="box used"), "most used in any step"),
        tag("li", tag("i", class_="mark"), "predicted peak"),
        tag("li", tag("i", class_="box free"), "free, of what training may use"),
    ]
    rows = [_memory_row(chip) for chip in figures.chips]
    return join([tag("div", *rows, class_="bars memory"), tag("ul", *keys, class_="legend")])


def _memory_row(figures: ChipFigures) -> Markup:
    whole = figures.chip.memory_available_bytes
    used, predicted = figures.memory_bytes, figures.predicted_memory_bytes
    of = shown(whole, size)
    said = f"{shown(used, size)} of {of}"
    if not whole > 0:
        return _row(figures, tag("div", class_="bar"), said)
    parts: list[Markup] = []
    if used is not None:
        full = " over" if used > whole else ""
        parts.append(
            tag("span", class_=f"part used{full}", style=f"width:{min(1.0, used / whole):.2%}")
        )
    if predicted is not None:
        parts.append(tag("i", class_="mark", style=f"left:{min(1.0, predicted / whole):.2%}"))
    tip = f"{figures.chip.name}: {said} used, {figures.source}; {shown(predicted, size)} predicted"
    bar = tag("div", *parts, class_="bar", role="img", aria_label=tip, data_tip=tip)
    return _row(figures, bar, said if used is not None else f"{UNKNOWN} of {of}")


def _row(figures: ChipFigures, bar: Markup, said: str) -> Markup:
    name = tag("div", tag("b", figures.chip.name), " ", badge(figures.source), class_="who")
    return tag("div", name, bar, tag("span", said, class_="amount"), class_="row")
