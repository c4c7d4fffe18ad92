"""The maths of the plots, by properties; and that markup escapes whatever it is given."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser

from hypothesis import given, settings
from hypothesis import strategies as st

from motley.report.lanes import time_axis
from motley.report.markup import escape, script_data, tag
from motley.report.svg import (
    VIEW,
    Scale,
    dots_path,
    line_path,
    lone_points,
    smooth,
    step_labels,
    thin,
    tick_text,
)

quick = settings(deadline=None, max_examples=60)
finite = st.floats(-1e12, 1e12, allow_nan=False)
positive = st.floats(1e-9, 1e12)
any_float = st.floats(allow_nan=True, allow_infinity=True)
points = st.lists(st.tuples(st.floats(0, 1), st.one_of(st.floats(0, 1), st.just(math.nan))))


@quick
@given(st.lists(any_float), st.booleans(), st.floats(0, 0.5), any_float)
def test_a_scale_maps_everything_into_the_drawing(
    values: list[float], is_log: bool, margin: float, value: float
) -> None:
    share = Scale.over(values, is_log=is_log, margin=margin).share(value)
    assert math.isnan(value) == math.isnan(share)
    assert math.isnan(share) or 0 <= share <= 1


@quick
@given(st.lists(finite, min_size=2), st.floats(0, 0.5))
def test_a_scale_keeps_the_order_and_holds_its_values(values: list[float], margin: float) -> None:
    scale = Scale.over(values, margin=margin)
    shares = [scale.share(value) for value in sorted(values)]
    assert shares == sorted(shares)
    assert scale.low <= min(values)
    assert scale.high >= max(values)


@quick
@given(positive, positive)
def test_a_log_scale_is_even_in_ratios(one: float, other: float) -> None:
    low, high = sorted((one, other))
    if high / low < 1.001:
        return
    scale = Scale(low, high, True)
    assert math.isclose(scale.share(math.sqrt(low) * math.sqrt(high)), 0.5, abs_tol=1e-6)
    assert (scale.share(low), scale.share(high)) == (0, 1)


@quick
@given(finite, st.floats(1e-6, 1e9), st.integers(1, 12))
def test_ticks_are_few_ascending_and_inside(low: float, length: float, most: int) -> None:
    scale = Scale(low, low + length)
    ticks = scale.ticks(most)
    slack = 1e-9 * max(abs(scale.low), abs(scale.high))
    assert len(ticks) <= most
    assert ticks == sorted(set(ticks))
    assert all(scale.low - slack <= tick <= scale.high + slack for tick in ticks)


@quick
@given(positive, st.floats(5.1, 1e30), st.integers(2, 9))
def test_log_ticks_are_round_few_and_inside(low: float, ratio: float, most: int) -> None:
    ticks = Scale(low, low * ratio, True).ticks(most)
    assert 1 <= len(ticks) <= most or (most < 4 and ratio < 10)
    assert ticks == sorted(set(ticks))
    for tick in ticks:
        assert f"{tick:.0e}"[0] in "125"
        assert math.isclose(tick, float(f"{tick:.0e}"))
        assert low <= tick <= low * ratio


def test_ticks_of_a_loss_curve() -> None:
    assert [tick_text(tick) for tick in Scale(2.7, 9.4).ticks(6)] == ["4", "6", "8"]
    assert [tick_text(tick) for tick in Scale(0, 1.2).ticks(6)] == [
        "0", "0.25", "0.5", "0.75", "1",
    ]  # fmt: skip
    assert Scale(3, 3).ticks() == [3]


@quick
@given(points)
def test_a_path_stays_inside_and_breaks_at_gaps(places: list[tuple[float, float]]) -> None:
    path = line_path(places)
    numbers = [float(number) for number in re.findall(r"[\d.]+", path)]
    assert all(0 <= number <= VIEW for number in numbers)
    known = [place for place in places if math.isfinite(place[1])]
    assert path.count("M") + path.count("L") == len(known)
    assert dots_path(places).count("M") == len(known)
    assert len(lone_points(places)) <= path.count("M")


def test_a_path_is_written_upwards_from_the_bottom() -> None:
    assert line_path([(0, 0), (0.5, 1), (0.6, math.nan), (1, 0.25)]) == "M0 1000L500 0M1000 750"
    assert lone_points([(0, 0), (0.5, 1), (0.6, math.nan), (1, 0.25)]) == [(1, 0.25)]


@quick
@given(points, st.integers(3, 50))
def test_thinning_keeps_the_ends_and_the_extremes(
    places: list[tuple[float, float]], most: int
) -> None:
    kept = thin(places, most)
    assert len(kept) <= max(len(places), 2) if len(places) <= most else len(kept) <= 2 * most + 6
    known = [y for _, y in places if math.isfinite(y)]
    kept_known = [y for _, y in kept if math.isfinite(y)]
    assert min(known, default=0) == min(kept_known, default=0)
    assert max(known, default=0) == max(kept_known, default=0)
    if places:
        assert kept[0][0] == places[0][0]
        assert kept[-1][0] == places[-1][0]


@quick
@given(st.lists(st.floats(-1e6, 1e6)), st.integers(1, 50))
def test_a_running_mean_stays_between_the_extremes(values: list[float], window: int) -> None:
    means = smooth(values, window)
    assert len(means) == len(values)
    assert all(min(values) - 1e-3 <= mean <= max(values) + 1e-3 for mean in means)


def test_a_running_mean_does_not_lag_and_keeps_gaps() -> None:
    assert smooth([1, 2, 3, 4, 5], 3) == [1, 2, 3, 4, 5]
    means = smooth([1, math.nan, 3], 3)
    assert math.isnan(means[1])


class Collector(HTMLParser):
    """Gathers the texts, tags and attribute values of a document."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.values: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.values += [value for _, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


readable = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)


@quick
@given(readable)
def test_markup_escapes_text_and_attributes(text: str) -> None:
    collector = Collector()
    collector.feed(tag("p", text, title=text))
    collector.close()
    assert collector.tags == ["p"]
    assert "".join(collector.texts) == text
    assert collector.values == [text]


@quick
@given(readable)
def test_script_data_cannot_end_its_element(text: str) -> None:
    assert script_data("data", {"name": text}).count("<") == 2


def test_markup_details() -> None:
    assert tag("input", checked=True, disabled=False, value=None) == "<input checked>"
    assert tag("rect", aria_label="a & b", width=1.5) == (
        '<rect aria-label="a &amp; b" width="1.5"></rect>'
    )
    assert escape(tag("b", "<")) == "<b>&lt;</b>"


def test_no_label_names_a_part_of_a_step() -> None:
    labels = map(str, step_labels(Scale(0, 3), Scale(0, 1)))
    said = [re.sub("<.*?>", "", label) for label in labels if 'class="x"' in label]
    assert said == ["0", "1", "2", "3"]


def test_what_the_last_tick_says_ends_at_it() -> None:
    labels = re.findall(r'class="(x[^"]*)"[^>]*>([^<]+)<', str(time_axis(Scale(0, 0.505))))
    assert labels[-1] == ("x last", "500 ms")
    assert all(kind == "x" for kind, _ in labels[:-1])
