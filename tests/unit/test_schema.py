"""TOML tables to dataclasses: what is wrong is named with its place; nothing passes silently."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley.errors import ClusterError, InputError, RecipeError
from motley.schema import build, load_toml, require_positive


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int = 1

    def __post_init__(self) -> None:
        require_positive(self, "size")


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    rate: float = 1.0
    count: int | None = None
    flag: bool = False
    colour: Literal["red", "green"] = "red"
    words: tuple[str, ...] = ()
    rates: Mapping[Literal["fast", "slow"], float] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)
    inners: tuple[Inner, ...] = ()


def parse(**table: Any) -> Outer:
    return build(Outer, {"name": "x", **table}, "file", InputError)


def refused(**table: Any) -> str:
    with pytest.raises(InputError) as caught:
        parse(**table)
    return str(caught.value)


def test_values_arrive_with_their_types() -> None:
    made = parse(
        rate=2, count=3.0, flag=True, colour="green", words=["a", "b"], rates={"fast": 1},
        inner={"size": 4}, inners=[{"size": 5}, {}],
    )  # fmt: skip
    assert made == Outer(
        name="x", rate=2.0, count=3, flag=True, colour="green", words=("a", "b"),
        rates={"fast": 1.0}, inner=Inner(size=4), inners=(Inner(size=5), Inner()),
    )  # fmt: skip
    assert isinstance(made.rate, float)
    assert isinstance(made.count, int)


def test_one_value_may_stand_for_a_list_of_one() -> None:
    assert parse(words="a").words == ("a",)


def test_null_is_unset_where_that_is_allowed_only() -> None:
    assert parse(count=None).count is None
    assert refused(rate=None) == "file.rate: expected a number, found None."


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"nmae": "y"}, "file: unknown key 'nmae'.\nDid you mean 'name'?"),
        ({"zzzz": 1}, "file: unknown key 'zzzz'.\nKnown keys: name, rate, count, flag, colour, "
                      "words, rates, inner, inners."),
        ({"inner": {"sise": 1}}, "file.inner: unknown key 'sise'.\nDid you mean 'size'?"),
        ({"inner": {"size": 0}}, "file.inner.size: must be above zero, found 0"),
        ({"inner": 3}, "file.inner: expected a table, found 3."),
        ({"inners": [{"size": -1}]}, "file.inners.size: must be above zero, found -1"),
        ({"colour": "gren"}, "file.colour: 'gren' is not one of 'red', 'green'.\n"
                             "Did you mean 'green'?"),
        ({"rates": {"fsat": 1.0}}, "file.rates: 'fsat' is not one of 'fast', 'slow'.\n"
                                   "Did you mean 'fast'?"),
        ({"rates": {"fast": "1"}}, "file.rates.fast: expected a number, found '1'."),
        ({"rates": 3}, "file.rates: expected a table, found 3."),
        ({"rate": True}, "file.rate: expected a number, found True."),
        ({"rate": "3"}, "file.rate: expected a number, found '3'."),
        ({"count": 1.5}, "file.count: expected a whole number, found 1.5."),
        ({"count": True}, "file.count: expected a whole number, found True."),
        ({"flag": 1}, "file.flag: expected true or false, found 1."),
        ({"name": 3}, "file.name: expected a text, found 3."),
        ({"words": [1]}, "file.words: expected a text, found 1."),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(table: dict[str, Any], message: str) -> None:
    assert refused(**table) == message


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), -float("inf"), 10**400, -(10**400), 10**5000, 1e31],
    ids=["nan", "inf", "-inf", "10^400", "-10^400", "10^5000", "1e31"],
)
@pytest.mark.parametrize("name", ["rate", "count"])
def test_numbers_that_no_figure_can_be_are_refused(name: str, value: float) -> None:
    assert refused(**{name: value}).startswith(f"file.{name}: ")


def test_a_missing_key_is_named() -> None:
    with pytest.raises(RecipeError, match=r"^file: 'name' is missing\.\nAdd name = "):
        build(Outer, {}, "file", RecipeError)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=6,
    ),
    st.sampled_from(sorted(Outer.__dataclass_fields__)),
)
def test_any_value_is_taken_or_refused_by_name(value: Any, name: str) -> None:
    try:
        parse(**{name: value})
    except InputError as error:
        assert error.message.startswith(f"file.{name}")  # noqa: PT017


@pytest.mark.parametrize(
    "text",
    ["a = ", "a = 1\na = 2", f"a = {'1' * 5000}", f"a = {'[' * 5000}"],
    ids=["no value", "key twice", "number without end", "nesting without end"],
)
def test_a_file_that_is_not_toml(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"recipe\.toml: not valid TOML: "):
        load_toml(path, RecipeError)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"nope\.toml: no such file"):
        load_toml(tmp_path / "nope.toml", ClusterError)
    with pytest.raises(ClusterError, match="is a folder"):
        load_toml(tmp_path, ClusterError)
    (tmp_path / "latin.toml").write_bytes(b"name = '\xe9'")
    with pytest.raises(ClusterError, match="not UTF-8"):
        load_toml(tmp_path / "latin.toml", ClusterError)


def test_require_positive_passes_over_what_is_unset() -> None:
    require_positive(Outer(name="x"), "count", "rate")
    with pytest.raises(ValueError, match="rate: must be above zero, found nan"):
        require_positive(Outer(name="x", rate=float("nan")), "count", "rate")
