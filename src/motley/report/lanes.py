"""The drawing of a timeline: spans on lanes over one axis of time."""

from __future__ import annotations

from collections.abc import Mapping

from motley.report.document import legend
from motley.report.markup import Markup, join, tag
from motley.report.svg import Scale
from motley.units import duration

LABEL_SHARE = 0.014
"""A span wider than this share of the step has its micro-batch's number written in it."""
WIDE_SHARE = 0.05
"""A span wider than this keeps the number on a phone as well."""
LAST_SHARE = 0.93
"""Half of what a tick says would stand beside the drawing beyond this."""

KINDS = ("forward", "backward", "weight", "wait", "sync", "optimizer")
"""The kinds of spans that have a colour; others are drawn as "other"."""

HATCH = tag(
    "svg",
    tag(
        "pattern",
        tag("rect", width=6, height=6),
        tag("path", d="M-1 1l2-2M0 6l6-6M5 7l2-2"),
        id="hatch",
        patternUnits="userSpaceOnUse",
        width=6,
        height=6,
    ),
    class_="defs",
    aria_hidden="true",
)
"""The fill of waiting, used by all drawings."""


def span_box(
    kind: str,
    micro_batch: int | None,
    span: tuple[float, float],
    lane: tuple[int, int],
    said: str,
    shade: str = "",
) -> Markup:
    """One span, as shares of the drawing's width, with its number where there is room.

    `lane` is its top and height in pixels, `said` its tooltip, `shade` a further class.
    """
    start, end = span
    top, height = lane
    known = kind if kind in KINDS else "other"
    box = tag(
        "rect",
        tag("title", said),
        x=f"{start:.3%}",
        width=f"{end - start:.3%}",
        y=top,
        height=height,
        class_=f"{known} {shade}".rstrip(),
    )
    if micro_batch is None or end - start < LABEL_SHARE:
        return box
    number = tag(
        "text",
        str(micro_batch),
        x=f"{(start + end) / 2:.3%}",
        y=top + height / 2,
        class_=f"{known} wide" if end - start >= WIDE_SHARE else known,
    )
    return join([box, number])


def time_axis(scale: Scale) -> Markup:
    """The row below the lanes, in seconds."""
    ticks = [
        tag(
            "span",
            duration(tick) if tick else "0",
            class_="x last" if scale.share(tick) > LAST_SHARE else "x",
            style=f"left:{scale.share(tick):.2%}",
        )
        for tick in scale.ticks(6)
    ]
    return tag("div", tag("div", *ticks, class_="ticks"), class_="row axis")


def lanes_legend(words: Mapping[str, str]) -> Markup:
    """What the colours of these kinds of spans mean."""
    return legend(words.items(), "numbers are micro-batches")
