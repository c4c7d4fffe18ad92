"""What time costs: every plan that no other beats in both, and the chosen one among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from motley.plan.money import Money
from motley.plan.plan import Plan
from motley.report.kinds import short
from motley.report.markup import Child, Markup, join, tag
from motley.report.svg import VIEW, Point, Scale, line_path, tick_text
from motley.report.tables import table
from motley.report.words import plural, shown
from motley.units import duration, percent, si

MOST_TICKS = 6


class FrontierPoint(Protocol):
    """What is read of a plan on the frontier."""

    @property
    def step_s(self) -> float: ...
    @property
    def tokens_per_s(self) -> float: ...
    @property
    def usd_per_hour(self) -> float | None: ...
    @property
    def usd_per_billion_tokens(self) -> float | None: ...
    @property
    def num_chips(self) -> int: ...
    @property
    def label(self) -> str: ...
    @property
    def plan(self) -> Plan: ...


class Dot(NamedTuple):
    """One plan in the plot."""

    label: str
    tokens_per_s: float
    step_s: float
    num_chips: int
    usd_per_hour: float | None
    usd_per_billion_tokens: float | None
    is_chosen: bool


def frontier_section(points: Sequence[FrontierPoint], plan: Plan, money: Money) -> Markup:
    """The plot, against money if all prices are known, else against the number of chips."""
    dots = _dots(points, plan, money)
    is_priced = all(dot.usd_per_billion_tokens is not None for dot in dots)
    note = None if is_priced else tag("p", _why_no_prices(money), class_="note problem")
    return join([note, _plot(dots, is_priced), _table(dots)])


def _dots(points: Sequence[FrontierPoint], plan: Plan, money: Money) -> list[Dot]:
    """The points from the slowest on, with the chosen plan even if it is not on the frontier."""
    dots = [
        Dot(
            point.label, point.tokens_per_s, point.step_s, point.num_chips, point.usd_per_hour,
            point.usd_per_billion_tokens, _is_same(point.plan, plan),
        )
        for point in points
    ]  # fmt: skip
    if not any(dot.is_chosen for dot in dots):
        dots.append(
            Dot(
                "the chosen plan", plan.tokens_per_s, plan.step_s, len(plan.chips),
                money.usd_per_hour, money.usd_per_billion_tokens, True,
            )
        )  # fmt: skip
    return sorted(dots, key=lambda dot: (dot.tokens_per_s, dot.num_chips, dot.label))


def _is_same(plan: Plan, chosen: Plan) -> bool:
    """The same split, whatever is said about it."""
    return plan.replicas == chosen.replicas


def _why_no_prices(money: Money) -> str:
    kinds = ", ".join(map(short, money.unknown_kinds))
    of = f"that of {kinds} is unknown" if kinds else "that of a chip of some plan is unknown"
    return (
        f"Money needs the price of every chip, and {of}: drawn against the number of chips. "
        "Give usd_per_hour in cluster.toml."
    )


def _x_of(dot: Dot, is_priced: bool) -> float:
    priced = dot.usd_per_billion_tokens
    return priced if is_priced and priced is not None else float(dot.num_chips)


def _plot(dots: Sequence[Dot], is_priced: bool) -> Markup:
    xs = Scale.over([_x_of(dot, is_priced) for dot in dots], margin=0.08)
    highest = max(dot.tokens_per_s for dot in dots)
    ys = Scale(0.0, highest * 1.1)
    places = [(xs.share(_x_of(dot, is_priced)), ys.share(dot.tokens_per_s)) for dot in dots]
    frontier = [place for place, dot in zip(places, dots, strict=True) if _is_best(dot, dots)]
    drawing = tag(
        "svg",
        *[tag("path", d=f"M0 {(1 - ys.share(y)) * VIEW:.1f}H{VIEW}", class_="grid")
          for y in ys.ticks(MOST_TICKS)],
        tag("path", d=line_path(_steps(sorted(frontier))), class_="train"),
        viewBox=f"0 0 {VIEW} {VIEW}",
        preserveAspectRatio="none",
        aria_hidden="true",
    )  # fmt: skip
    marks = [
        _mark(index, dot, place)
        for index, (dot, place) in enumerate(zip(dots, places, strict=True), 1)
    ]
    unit = "USD per billion tokens" if is_priced else "chips that work"
    return tag(
        "div",
        tag("p", "tokens/s, predicted", class_="axis-name"),
        tag("div", drawing, *_labels(xs, ys, is_priced), *marks, class_="area"),
        tag("p", unit, class_="axis-name across"),
        class_="plot scatter",
    )


def _is_best(dot: Dot, dots: Sequence[Dot]) -> bool:
    """None is faster at no higher price; unpriced, with no more chips."""

    def cost(one: Dot) -> float:
        price = one.usd_per_billion_tokens
        return price if price is not None else float(one.num_chips)

    return not any(
        other.tokens_per_s > dot.tokens_per_s and cost(other) <= cost(dot) for other in dots
    )


def _steps(places: Sequence[Point]) -> list[Point]:
    """What money buys: as fast as the best so far, up to the next plan."""
    path: list[Point] = []
    for x, y in places:
        if path:
            path.append((x, path[-1][1]))
        path.append((x, y))
    return path


def _mark(index: int, dot: Dot, place: Point) -> Markup:
    words = f"{index}: {dot.label}{', chosen' if dot.is_chosen else ''}: {_figures(dot)}"
    return tag(
        "b",
        str(index),
        class_="dot-mark chosen" if dot.is_chosen else "dot-mark",
        style=f"left:{place[0]:.2%};bottom:{place[1]:.2%}",
        role="img",
        aria_label=words,
        data_tip=words,
        tabindex=0,
    )


def _figures(dot: Dot) -> str:
    price = shown(dot.usd_per_billion_tokens, _usd, "price unknown")
    priced = f"{price} per billion tokens" if dot.usd_per_billion_tokens is not None else price
    return f"{si(dot.tokens_per_s)} tokens/s, {priced}, {plural(dot.num_chips, 'chip')}"


def _usd(usd: float) -> str:
    return f"{usd:,.0f} USD" if usd >= 100 else f"{usd:.3g} USD"


def _labels(xs: Scale, ys: Scale, is_priced: bool) -> list[Markup]:
    labels = [
        tag("span", si(tick), class_="y", style=f"bottom:{ys.share(tick):.2%}")
        for tick in ys.ticks(MOST_TICKS)
    ]
    for tick in xs.ticks(5):
        if is_priced or tick == int(tick):
            style = f"left:{xs.share(tick):.2%}"
            labels.append(tag("span", tick_text(tick), class_="x", style=style))
    return labels


def _table(dots: Sequence[Dot]) -> Markup:
    fastest = max(dot.tokens_per_s for dot in dots)
    rows: list[list[Child]] = []
    for index, dot in enumerate(dots, 1):
        chosen = tag("b", " chosen", class_="chosen-word") if dot.is_chosen else None
        rows.append([
            str(index), join([dot.label, chosen]), str(dot.num_chips), si(dot.tokens_per_s),
            percent(dot.tokens_per_s / fastest), duration(dot.step_s),
            shown(dot.usd_per_hour, _usd), shown(dot.usd_per_billion_tokens, _usd),
        ])  # fmt: skip
    head = (
        "plan", "chips used", "chips", "tokens/s", "of the fastest", "step",
        "an hour", "a billion tokens",
    )  # fmt: skip
    return table(head, rows, "Plans of the frontier")
