"""`ablation.html`: the curves of all variants, and what each differs from the recipe by."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from motley.ablation import BASE, Interval, Outcome, Row
from motley.report.document import document, fact, page_header, section, write_page
from motley.report.markup import Child, Markup, join, tag
from motley.report.svg import (
    VIEW,
    Point,
    Scale,
    dots_path,
    grid,
    line_path,
    step_labels,
    stroke,
    tick_text,
)
from motley.report.tables import table
from motley.report.words import plural, shown
from motley.units import duration

PAGE_FILE = "ablation.html"
NUM_COLOURS = 7
"""Of the style sheet; the variants after them begin again, dashed."""
VERDICTS = {
    "base": "the recipe itself",
    "lower": "lower: fewer bits per byte",
    "higher": "higher: more bits per byte",
    "noise": "noise: the interval holds zero",
    "no claim": "no claim: too few seeds",
    "diverged": "diverged",
}


def write_ablation_page(
    folder: Path, name: str, rows: Sequence[Row], outcomes: Sequence[Outcome]
) -> Path:
    """Writes the page into the ablation's folder, whole or not at all; its path.

    `StorageError` if it cannot be written.
    """
    return write_page(folder / PAGE_FILE, ablation_html(name, rows, outcomes))


def ablation_html(name: str, rows: Sequence[Row], outcomes: Sequence[Outcome]) -> str:
    """The whole page as text."""
    sections = [
        section(
            "differences",
            "Difference to the recipe",
            _differences(rows),
            "Bits per byte on the held-out text, mean and 95 % interval (Welch). Left is better. "
            "An interval that holds zero is noise.",
            "measured",
        ),
        section(
            "curves",
            "Held-out bits per byte over steps",
            _curves(rows, outcomes),
            "Bold: mean of the seeds. Thin: each seed.",
            "measured",
        ),
        section(
            "runs",
            "Variants",
            _table(rows),
            "FLOPs of a run are counted, with those of the optimizer and of what came before it; "
            "time is that of its steps. In brackets: over the recipe's own.",
            "measured",
        ),
    ]
    footer = tag(
        "footer",
        tag("p", "Intervals say what other seeds would give on the same held-out text. Of twenty "
            "variants that change nothing, about one will not look like noise."),
    )  # fmt: skip
    styles = ("page.css", "ablation_page.css")
    return document(f"{name}: motley ablation", _header(name, rows, outcomes), sections, footer,
                    styles)  # fmt: skip


def _header(name: str, rows: Sequence[Row], outcomes: Sequence[Outcome]) -> Markup:
    lower = [row for row in rows if row.verdict == "lower"]
    best = min(rows, key=lambda row: row.mean)
    seeds = len({outcome.seed for outcome in outcomes})
    facts = [
        fact("runs", str(len(outcomes)), "measured", plural(seeds, "seed")),
        fact("variants", str(len(rows) - 1), "measured"),
        fact("better than the recipe", str(len(lower)), "measured"),
        fact("lowest", _mean_text(best), "measured", best.variant),
    ]
    return page_header("motley ablation", name, "Variants of one recipe, trained alike.", facts)


def _differences(rows: Sequence[Row]) -> Markup:
    known = [(row, row.difference) for row in rows if row.difference is not None]
    if not known:
        return tag("p", "No difference has two seeds on both sides yet.", class_="note")
    scale = Scale.over([0.0, *(end for _, d in known for end in (d.low, d.high))], margin=0.06)
    lines: list[Child] = []
    for row, difference in known:
        lines.append(tag("div", row.variant, class_="who"))
        lines.append(_span(scale, difference, row.verdict))
        lines.append(tag("div", _difference_text(difference), class_="amount"))
    labels = [
        tag("span", tick_text(tick), class_="x", style=f"left:{scale.share(tick):.2%}")
        for tick in scale.ticks(6)
    ]
    axis = tag("div", *labels, class_="ticks")
    return tag("div", *lines, tag("div"), axis, tag("div"), class_="spans")


def _span(scale: Scale, difference: Interval, verdict: str) -> Markup:
    left, right, zero = (scale.share(value) for value in (difference.low, difference.high, 0.0))
    return tag(
        "div",
        tag("i", class_="zero", style=f"left:{zero:.2%}"),
        tag("i", class_="reach", style=f"left:{left:.2%};width:{right - left:.2%}"),
        tag("i", class_="middle", style=f"left:{scale.share(difference.mean):.2%}"),
        class_=f"span {verdict}",
        role="img",
        aria_label=f"{_difference_text(difference)}: {VERDICTS[verdict]}",
    )


def _difference_text(difference: Interval) -> str:
    return f"{difference.mean:+.4f} ({difference.low:+.4f} to {difference.high:+.4f})"


def _curves(rows: Sequence[Row], outcomes: Sequence[Outcome]) -> Markup:
    points = [point for outcome in outcomes for point in outcome.curve]
    if not points:
        return tag("p", "No run has been validated yet.", class_="note")
    steps = Scale(0.0, max(step for step, _ in points))
    bits = Scale.over([value for _, value in points if math.isfinite(value)], margin=0.04)
    lines: list[Child] = [*grid(bits)]
    for index, row in enumerate(rows):
        own = [outcome for outcome in outcomes if outcome.variant == row.variant]
        kind = _colour(index)
        seeds = [_places(steps, bits, outcome.curve) for outcome in own]
        lines += [stroke(line_path(places), f"{kind} seed") for places in seeds]
        mean = _places(steps, bits, _mean_curve(own))
        lines += [stroke(line_path(mean), kind), stroke(dots_path(mean), f"{kind} dots")]
    drawing = tag(
        "svg", *lines, viewBox=f"0 0 {VIEW} {VIEW}", preserveAspectRatio="none", aria_hidden="true"
    )
    plot = tag(
        "div",
        tag("div", drawing, *step_labels(steps, bits), class_="area"),
        class_="plot",
        role="img",
        aria_label="; ".join(f"{row.variant}: {_mean_text(row)} bits per byte" for row in rows),
    )
    keys = [
        tag("li", tag("i", class_=f"line {_colour(index)}"), row.variant)
        for index, row in enumerate(rows)
    ]
    units = tag("li", "bits per byte, over steps", class_="units")
    return join([plot, tag("ul", *keys, units, class_="legend")])


def _colour(index: int) -> str:
    return f"variant-{index % NUM_COLOURS}" + (" again" if index >= NUM_COLOURS else "")


def _places(steps: Scale, bits: Scale, curve: Sequence[tuple[int, float]]) -> list[Point]:
    return [(steps.share(step), bits.share(value)) for step, value in curve]


def _mean_curve(outcomes: Sequence[Outcome]) -> list[tuple[int, float]]:
    """Over the seeds, at the steps that all of them have."""
    curves = [dict(outcome.curve) for outcome in outcomes]
    common = set.intersection(*map(set, curves)) if curves else set()
    return [(step, statistics.fmean(curve[step] for curve in curves)) for step in sorted(common)]


def _table(rows: Sequence[Row]) -> Markup:
    head = ("variant", "seeds", "bits/byte", "95 % interval", "difference", "FLOPs", "time", "")
    return table(head, [_cells(row) for row in rows], "Variants")


def _cells(row: Row) -> list[Child]:
    interval = row.interval
    return [
        row.variant if row.variant != BASE else tag("b", BASE),
        str(len(row.seeds)),
        _mean_text(row),
        f"{interval.low:.4f} to {interval.high:.4f}" if interval else "one seed",
        _difference_text(row.difference) if row.difference else "",
        f"{row.flops:.3g}" + _times(row.flops_ratio),
        duration(row.training_s) + _times(row.time_ratio),
        VERDICTS[row.verdict],
    ]


def _times(ratio: float | None) -> str:
    return f" ({ratio:.2f}x)" if ratio else ""


def _mean_text(row: Row) -> str:
    return shown(row.mean, lambda value: f"{value:.4f}", "not finite")
