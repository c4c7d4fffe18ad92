"""The simulated step drawn: whole, and where passes are many, its first and last moments as well.

A row with more spans than can be told apart is drawn as columns, each of which shows how its part
of the time is shared. So a step of any length stays a page of bounded size.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from motley.plan.plan import Plan
from motley.plan.simulate import Simulation, SpanKind
from motley.report.kinds import Palette
from motley.report.lanes import HATCH, lanes_legend, span_box, time_axis
from motley.report.markup import Markup, join, tag
from motley.report.step_rows import Drawn, Row, rows_of
from motley.report.svg import Scale
from motley.report.words import plural
from motley.units import duration, percent

MOST_ROWS = 48
MOST_SPANS = 6_000
"""Of all rows in all views; with their tooltips about a megabyte."""
MOST_OF_A_ROW = 400
"""Spans of one row that a screen still tells apart."""
SPANS_PER_COLUMN = 8
"""Fewer would beat with the rhythm of the passes."""
MOST_COLUMNS = 200
ZOOM_SPANS = 60
"""Of the busiest row in a view of the first or last moments."""
LANE = (1, 22)
"""Top and height in pixels of passes."""
EXCHANGE_LANE = (25, 5)
HEIGHT = 31
NUM_SHADES = 4
"""For the stages that the same chips hold in turn."""

LAYERS_DRAWN: tuple[SpanKind, ...] = ("optimizer", "weight", "backward", "forward")
"""In a column, from the top down."""
WORDS = {
    "forward": "forward",
    "backward": "backward",
    "weight": "weight gradients",
    "wait": "waiting",
    "sync": "gradient exchange, beside the passes",
    "optimizer": "optimizer",
}

View = tuple[str, str, float, float]
"""Key, words, first and last second."""


def step_section(plan: Plan, simulation: Simulation, palette: Palette) -> Markup:
    """The views with a switch between them that needs no script."""
    rows = rows_of(plan, simulation)
    drawn = rows[:MOST_ROWS]
    views = _views(drawn, simulation.step_s)
    most = min(MOST_OF_A_ROW, MOST_SPANS // (len(drawn) * len(views)))
    used = {span.kind for row in drawn for span in row.spans}
    used |= {"sync"} if any(row.exchanges for row in drawn) else set()
    legend = lanes_legend({kind: said for kind, said in WORDS.items() if kind in used})
    return join(
        [
            HATCH,
            *(_switch(views) if len(views) > 1 else ()),
            tag(
                "div", *[_drawing(view, drawn, most, palette) for view in views], class_="timelines"
            ),
            _hidden_rows(rows),
            legend,
        ]
    )


def _views(rows: Sequence[Row], step_s: float) -> list[View]:
    """The whole step; if its spans are too many to see, also where it begins and ends."""
    whole: View = ("whole", "whole step", 0.0, step_s)
    busiest = max(rows, key=lambda row: len(row.spans))
    if len(busiest.spans) <= 2 * ZOOM_SPANS:
        return [whole]
    begin = busiest.spans[ZOOM_SPANS - 1].end_s
    end = busiest.spans[-ZOOM_SPANS].start_s
    return [
        whole,
        ("begin", f"first {duration(begin)}", 0.0, begin),
        ("end", f"last {duration(step_s - end)}", end, step_s),
    ]


def _switch(views: Sequence[View]) -> list[Markup]:
    """Radio buttons that style sheet rules follow."""
    parts = []
    for key, said, _, _ in views:
        identity = f"view-{key}"
        parts.append(tag("input", type="radio", name="view", id=identity, checked=key == "whole"))
        parts.append(tag("label", said, for_=identity, class_="switch"))
    return parts


def _drawing(view: View, rows: Sequence[Row], most: int, palette: Palette) -> Markup:
    key, said, start, end = view
    scale = Scale(start, end)
    inside = [
        [span for span in row.spans if span.end_s > start and span.start_s < end] for row in rows
    ]
    is_dense = max(map(len, inside)) > most
    note = tag("p", "Each column shows how its part of the time is shared.", class_="note")
    return tag(
        "div",
        *[_row(row, spans, scale, is_dense, palette)
          for row, spans in zip(rows, inside, strict=True)],
        time_axis(scale),
        note if is_dense else None,
        class_=f"timeline one-lane {key}",
        role="group",
        aria_label=f"Timeline of the {said}",
    )  # fmt: skip


def _row(
    row: Row, inside: Sequence[Drawn], scale: Scale, is_dense: bool, palette: Palette
) -> Markup:
    if is_dense:
        drawn: list[Markup] = [_columns(inside, scale)]
    else:
        drawn = [_span(row, span, scale) for span in inside]
    drawn += [_exchange(start, end, scale) for start, end in row.exchanges]
    lanes = tag(
        "svg", *drawn, class_="lanes", height=HEIGHT, role="img", aria_label=_in_words(row, palette)
    )
    more = len(row.replicas) - 1
    where = f"r{row.replicas[0]}" + (f" + {more} alike" if more else "")
    busy = percent(row.share("forward", "backward", "weight", "optimizer"))
    name = tag(
        "div",
        tag("b", palette.group(row.chips)),
        tag("span", f"{where}, busy {busy}", class_="muted"),
        class_="who",
    )
    return tag("div", name, lanes, class_="row")


def _span(row: Row, span: Drawn, scale: Scale) -> Markup:
    place = scale.share(span.start_s), scale.share(span.end_s)
    said = span.kind if span.micro_batch is None else f"{span.kind} of micro-batch"
    if span.micro_batch is not None:
        said += f" {span.micro_batch}"
    if len(row.layers) > 1 and span.kind != "wait":
        first, last = row.layers[span.turn]
        said += f", layers {first}-{last - 1}"
    said += f", {duration(span.end_s - span.start_s)} from {duration(span.start_s)}"
    shade = f"turn{span.turn % NUM_SHADES}" if len(row.layers) > 1 else ""
    return span_box(span.kind, span.micro_batch, place, LANE, said, shade)


def _exchange(start: float, end: float, scale: Scale) -> Markup:
    """Empty outside the view."""
    if end <= scale.low or start >= scale.high:
        return Markup()
    said = f"gradient exchange, {duration(end - start)} from {duration(start)}"
    return span_box("sync", None, (scale.share(start), scale.share(end)), EXCHANGE_LANE, said)


def column_shares(
    spans: Sequence[Drawn], scale: Scale, num_columns: int
) -> dict[SpanKind, list[float]]:
    """For each kind that is drawn, its share of the time of every column."""
    shares = {kind: [0.0] * num_columns for kind in LAYERS_DRAWN}
    for span in spans:
        if span.kind not in shares:
            continue
        first = scale.share(span.start_s) * num_columns
        last = scale.share(span.end_s) * num_columns
        for column in range(int(first), min(num_columns, int(last) + 1)):
            shares[span.kind][column] += max(0.0, min(last, column + 1) - max(first, column))
    return shares


def _columns(spans: Sequence[Drawn], scale: Scale) -> Markup:
    """The shares stacked from below: forward, backward, weight, optimizer; the rest is waiting."""
    num_columns = min(MOST_COLUMNS, max(1, len(spans) // SPANS_PER_COLUMN))
    shares = column_shares(spans, scale, num_columns)
    stacked = list(accumulate(
        (shares[kind] for kind in reversed(LAYERS_DRAWN)),
        lambda below, own: [low + high for low, high in zip(below, own, strict=True)],
    ))  # fmt: skip
    top, height = LANE
    paths = [
        tag("path", d=_skyline(tops), class_=kind)
        for kind, tops in zip(LAYERS_DRAWN, reversed(stacked), strict=True)
        if any(shares[kind])
    ]
    back = tag("rect", x=0, y=top, width="100%", height=height, class_="wait")
    inner = tag(
        "svg", *paths, y=top, width="100%", height=height,
        viewBox=f"0 0 {num_columns} 100", preserveAspectRatio="none",
    )  # fmt: skip
    return join([back, inner])


def _skyline(tops: Sequence[float]) -> str:
    """The outline of columns that stand on the ground."""
    parts, before = ["M0 100"], -1
    for column, share in enumerate(tops):
        y = round(100 - 100 * min(1.0, share))
        if y != before:
            parts.append(f"H{column}V{y}")
            before = y
    return "".join([*parts, f"H{len(tops)}V100Z"])


def _hidden_rows(rows: Sequence[Row]) -> Markup | None:
    left = len(rows) - MOST_ROWS
    if left <= 0:
        return None
    return tag("p", f"{plural(left, 'further row')} not drawn.", class_="note")


def _in_words(row: Row, palette: Palette) -> str:
    shares = [(WORDS[kind], row.share(kind)) for kind in ("forward", "backward", "weight", "wait")]
    said = ", ".join(f"{word} {percent(share)}" for word, share in shares if share)
    return f"{palette.group(row.chips)} of replica {row.replicas[0]}: {said} of the step, predicted"
