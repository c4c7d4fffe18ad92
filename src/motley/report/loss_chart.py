"""The loss curve: training loss of every step, its running mean, and the validation loss."""

from __future__ import annotations

import math

from motley.report.history import RunHistory
from motley.report.markup import Markup, join, script_data, tag
from motley.report.svg import (
    VIEW,
    Point,
    Scale,
    dots_path,
    grid,
    line_path,
    lone_points,
    smooth,
    step_labels,
    stroke,
    thin,
)
from motley.report.words import loss_text, plural

MOST_POINTS = 900
SMOOTHED_FROM = 60
"""Steps from which a running mean is drawn as well."""


def loss_section(history: RunHistory) -> Markup:
    """The plots, linear and logarithmic, with a switch between them."""
    if not history.steps:
        return tag("p", "No step has finished, so there is no loss yet.", class_="note")
    values = [value for _, value in _train(history) + _validation(history) if math.isfinite(value)]
    kinds = [False, True] if values and min(values) > 0 else [False]
    data = {"train": _data(_train(history)), "validation": _data(_validation(history))}
    return join(
        [
            *(_switch() if len(kinds) > 1 else ()),
            tag("div", *[_plot(history, values, is_log=kind) for kind in kinds], class_="plots"),
            _legend(history),
            _not_finite(history),
            script_data("loss-data", data),
        ]
    )


def _train(history: RunHistory) -> list[Point]:
    return [(float(step.step), step.loss) for step in history.steps]


def _validation(history: RunHistory) -> list[Point]:
    return [(float(entry.step), entry.loss) for entry in history.validations]


def _window(history: RunHistory) -> int:
    """Steps of the running mean; 0 for none."""
    count = len(history.steps)
    return max(5, count // 50) if count >= SMOOTHED_FROM else 0


def _data(points: list[Point]) -> list[list[float | None]]:
    """Step and loss of at most a thousand points or so, for the page's pointer."""
    few = points[:: -(-len(points) // MOST_POINTS) or 1]
    return [[step, round(loss, 4) if math.isfinite(loss) else None] for step, loss in few]


def _switch() -> list[Markup]:
    """Two radio buttons that style sheet rules follow; they need no script."""
    parts = []
    for name, said in (("linear", "linear"), ("log", "logarithmic")):
        identity = f"loss-{name}"
        parts.append(
            tag("input", type="radio", name="loss-scale", id=identity, checked=name == "linear")
        )
        parts.append(tag("label", said, for_=identity, class_="switch"))
    return parts


def _plot(history: RunHistory, values: list[float], *, is_log: bool) -> Markup:
    steps = Scale(min(1, history.steps[0].step), max(history.steps[-1].step, 2))
    losses = Scale.over(values, is_log=is_log, margin=0.04)

    def places(points: list[Point]) -> list[Point]:
        return thin([(steps.share(step), losses.share(loss)) for step, loss in points], MOST_POINTS)

    window = _window(history)
    train, checks = _train(history), _validation(history)
    means = smooth([loss for _, loss in train], window)
    mean_points = [(step, mean) for (step, _), mean in zip(train, means, strict=True)]
    raw = "train faint" if window else "train"
    drawn = places(train)
    bad = [step for step, loss in train if not math.isfinite(loss)]
    lines = [
        *grid(losses),
        _gone(steps.share(bad[0])) if bad else None,
        stroke(line_path(drawn), raw),
        stroke(dots_path(lone_points(drawn)), "train dots"),
        stroke(line_path(places(mean_points)), "train") if window else None,
        stroke(line_path(places(checks)), "validation"),
        stroke(dots_path(places(checks)), "validation dots"),
    ]
    drawing = tag(
        "svg", *lines, viewBox=f"0 0 {VIEW} {VIEW}", preserveAspectRatio="none", aria_hidden="true"
    )
    return tag(
        "div",
        tag("div", drawing, *step_labels(steps, losses), tag("i", class_="cursor"), class_="area"),
        class_=f"plot {'log' if is_log else 'linear'}",
        role="img",
        aria_label=_in_words(history),
        data_low=steps.low,
        data_high=steps.high,
    )


def _gone(x: float) -> Markup:
    """A mark at the first step whose loss was not finite."""
    return stroke(f"M{x * VIEW:.1f} 0V{VIEW}", "gone")


def _legend(history: RunHistory) -> Markup:
    window = _window(history)
    items = [("train", f"training, mean of {window} steps" if window else "training")]
    if window:
        items.insert(0, ("train faint", "training, each step"))
    if history.validations:
        items.append(("validation dots", "validation"))
    if any(not math.isfinite(step.loss) for step in history.steps):
        items.append(("gone", "first loss that is not finite"))
    keys = [tag("li", tag("i", class_=f"line {kind}"), said) for kind, said in items]
    units = tag("li", "nats per token, over steps", class_="units")
    return tag("ul", *keys, units, class_="legend")


def _not_finite(history: RunHistory) -> Markup | None:
    bad = [step.step for step in history.steps if not math.isfinite(step.loss)]
    if not bad:
        return None
    said = f"The loss was not finite in {plural(len(bad), 'step')}, first in step {bad[0]}."
    return tag("p", said, class_="note problem")


def _in_words(history: RunHistory) -> str:
    first, last = history.steps[0], history.steps[-1]
    said = (
        f"Training loss: {loss_text(first.loss)} at step {first.step}, "
        f"{loss_text(last.loss)} at step {last.step}."
    )
    if history.validations:
        said += f" Last validation loss: {loss_text(history.validations[-1].loss)}."
    return said
