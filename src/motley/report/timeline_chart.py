"""The timeline of one step: per chip, what was predicted above what was measured, on one scale."""

from __future__ import annotations

from collections.abc import Sequence

from motley.report.history import RunHistory, Segment
from motley.report.lanes import HATCH, lanes_legend, span_box, time_axis
from motley.report.markup import Markup, join, tag
from motley.report.records import ChipFacts, Span, Timeline
from motley.report.svg import Scale
from motley.report.words import stage_text
from motley.units import duration

MOST_TIMELINES = 8
MOST_SPANS = 12_000
"""Of all timelines together; the page stays below about 2 MB."""
WORDS = {
    "forward": "forward",
    "backward": "backward",
    "wait": "waiting",
    "sync": "gradient sync, not hidden",
    "optimizer": "optimizer",
}
LANES = {"predicted": (1, 15), "measured": (19, 24)}
"""Top and height in pixels."""
HEIGHT = 44


def timeline_section(history: RunHistory) -> Markup:
    """One drawing for each chosen step, of which the page shows one."""
    segment = history.measured_segment
    chosen = choose(history.timelines, segment)
    if not chosen:
        if not segment.predicted.spans:
            return tag("p", "This run has recorded no timeline.", class_="note")
        note = tag("p", "No step has been recorded: this is the prediction alone.", class_="note")
        drawing = _drawing(segment, Timeline(step=0, spans=()), is_shown=True)
        return join([note, HATCH, drawing, lanes_legend(WORDS)])
    drawings = [_drawing(segment, one, is_shown=one is chosen[-1]) for one in chosen]
    return join([_picker(chosen, len(history.timelines)), HATCH, *drawings, lanes_legend(WORDS)])


def choose(timelines: Sequence[Timeline], segment: Segment) -> list[Timeline]:
    """The timelines that the page holds: evenly spread, first and last among them."""
    names = {chip.name for chip in segment.chips}
    first = segment.resumed_from or 0
    own = [
        one
        for one in timelines
        if one.step > first and one.spans and all(span.chip in names for span in one.spans)
    ]
    largest = max((len(one.spans) for one in own), default=0) + len(segment.predicted.spans)
    most = max(1, min(MOST_TIMELINES, MOST_SPANS // max(1, largest)))
    if len(own) <= most:
        return own
    if most == 1:
        return own[-1:]
    return [own[round(index * (len(own) - 1) / (most - 1))] for index in range(most)]


def _picker(chosen: Sequence[Timeline], num_recorded: int) -> Markup:
    options = [
        tag("option", f"step {one.step}", value=one.step, selected=one is chosen[-1])
        for one in chosen
    ]
    said = "" if len(chosen) == num_recorded else f" {len(chosen)} of {num_recorded} recorded"
    select = tag("select", *options, id="timeline-step", autocomplete="off")
    label = tag("label", "Show ", select, for_="timeline-step")
    return tag("p", label, tag("span", said, class_="muted"), class_="picker")


def _drawing(segment: Segment, timeline: Timeline, *, is_shown: bool) -> Markup:
    predicted, measured = segment.predicted.spans, timeline.spans
    end = max((span.end_s for span in (*predicted, *measured)), default=1.0)
    scale = Scale(0.0, end)
    rows = [_row(chip, predicted, measured, scale) for chip in segment.chips]
    return tag(
        "div",
        *rows,
        time_axis(scale),
        class_="timeline",
        data_step=timeline.step,
        hidden=not is_shown,
    )


def _row(
    chip: ChipFacts, predicted: Sequence[Span], measured: Sequence[Span], scale: Scale
) -> Markup:
    drawn: list[Markup] = []
    for source, spans in (("predicted", predicted), (chip.source, measured)):
        lane = LANES["predicted" if source == "predicted" else "measured"]
        own = [span for span in spans if span.chip == chip.name]
        drawn += [_span(span, source, scale, *lane) for span in own]
    lanes = tag(
        "svg", *drawn, class_="lanes", height=HEIGHT, role="img", aria_label=_in_words(chip, drawn)
    )
    name = tag(
        "div", tag("b", chip.name), tag("span", stage_text(chip), class_="muted"), class_="who"
    )
    keys = tag("div", tag("span", "predicted"), tag("span", chip.source), class_="lane-names")
    return tag("div", name, keys, lanes, class_="row")


def _span(span: Span, source: str, scale: Scale, top: int, height: int) -> Markup:
    batch = "" if span.micro_batch is None else f" of micro-batch {span.micro_batch}"
    said = (
        f"{span.chip}: {span.kind}{batch}, {duration(span.end_s - span.start_s)} "
        f"({duration(span.start_s)} to {duration(span.end_s)}), {source}"
    )
    place = scale.share(span.start_s), scale.share(span.end_s)
    return span_box(span.kind, span.micro_batch, place, (top, height), said)


def _in_words(chip: ChipFacts, drawn: Sequence[Markup]) -> str:
    return f"Timeline of {chip.name}, {len(drawn)} spans, predicted above {chip.source}."
