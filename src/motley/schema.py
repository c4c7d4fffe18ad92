"""TOML tables to frozen dataclasses, strictly.

`build` fills a dataclass from a table: an unknown key, a missing key or a value of the wrong type
is an error that names the place and the nearest known key. Range checks belong to the dataclass
(`__post_init__`), which raises `ValueError("field: reason")`.
"""

from __future__ import annotations

import dataclasses
import functools
import tomllib
import types
import typing
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from motley.errors import MotleyError, nearest

T = TypeVar("T")

_SWITCH = "switch"
HIGHEST_RATE = 10
"""Of an optimizer: the largest that any may be given."""

LARGEST_NUMBER = 1e30
"""Nothing that is counted or measured here comes near; TOML's integers have no end."""


def load_toml(path: Path, error: type[MotleyError]) -> dict[str, Any]:
    """The tables of a TOML file; `error` if it is missing, unreadable or not TOML."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise error(f"{path}: no such file.", remedy="Check the path.") from None
    except IsADirectoryError:
        raise error(f"{path} is a folder, not a file.", remedy="Name the TOML file.") from None
    except UnicodeDecodeError as cause:
        raise error(f"{path}: not UTF-8: {cause}.", remedy="Save it as UTF-8.") from None
    except OSError as cause:
        raise error(f"{path}: cannot be read: {cause.strerror or cause}.") from None
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as cause:  # also numbers and nesting without end
        raise error(f"{path}: not valid TOML: {cause}.", remedy="Mend that line.") from None


def build(cls: type[T], table: Mapping[str, Any], where: str, error: type[MotleyError]) -> T:
    """An instance of the dataclass `cls` from `table`; `where` names the table in messages."""
    if not isinstance(table, Mapping):
        raise error(f"{where}: expected a table, found {_describe(table)}.")
    hints, required = _shape(typing.cast(Hashable, cls))
    for key in table:
        if key not in hints:
            hint = nearest(key, hints) or f"Known keys: {', '.join(hints)}."
            raise error(f"{where}: unknown key '{key}'.", remedy=hint)
    for name in required:
        if name not in table:
            written = f"[{name}]" if dataclasses.is_dataclass(hints[name]) else f"{name} = ..."
            raise error(f"{where}: '{name}' is missing.", remedy=f"Add {written} to {where}.")
    values = {
        key: _convert(hints[key], value, f"{where}.{key}", error) for key, value in table.items()
    }
    try:
        return cls(**values)
    except ValueError as cause:
        raise error(f"{where}.{cause}") from None


@functools.cache
def _shape(cls: type[Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The type of every field of a dataclass, and the names of those without a default."""
    hints, fields = typing.get_type_hints(cls), dataclasses.fields(cls)
    missing = dataclasses.MISSING
    required = tuple(
        field.name
        for field in fields
        if field.default is missing and field.default_factory is missing
    )
    return {field.name: hints[field.name] for field in fields}, required


def switch(off: Any) -> Any:
    """The default of a key that switches something on: while it is `off`, tables and digests are
    those of a time when there was no such key."""
    return dataclasses.field(default=off, metadata={_SWITCH: True})


def as_table(instance: Any) -> dict[str, Any]:
    """A dataclass as plain tables with unset keys left out; `build` reads them back."""
    fields = dataclasses.fields(instance)
    values = ((field, getattr(instance, field.name)) for field in fields)
    return {
        field.name: _plain(value)
        for field, value in values
        if value is not None and not (_SWITCH in field.metadata and value == field.default)
    }


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return as_table(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _convert(hint: Any, value: Any, where: str, error: type[MotleyError]) -> Any:
    if hint is Any:
        return value
    if hint in (str, bool, int, float):
        return _convert_plain(hint, value, where, error)
    origin, choices = _parts(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in choices:
            return None
        options = [option for option in choices if option is not type(None)]
        return _convert(options[0], value, where, error)
    if origin is typing.Literal:
        return _convert_choice(choices, value, where, error)
    if origin is tuple:
        items = value if isinstance(value, list) else [value]
        (item_hint, *_) = choices
        return tuple(_convert(item_hint, item, where, error) for item in items)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise error(f"{where}: expected a table, found {_describe(value)}.")
        key_hint, item_hint = choices
        return {
            _convert(key_hint, key, where, error): _convert(
                item_hint, item, f"{where}.{key}", error
            )
            for key, item in value.items()
        }
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, where, error)
    return _convert_plain(hint, value, where, error)


@functools.cache
def _parts(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Of a type such as `tuple[int, ...]`: the class, and what it is of."""
    return typing.get_origin(hint), typing.get_args(hint)


def _convert_choice(
    choices: tuple[Any, ...], value: Any, where: str, error: type[MotleyError]
) -> Any:
    if value in choices:
        return value
    listed = ", ".join(f"'{choice}'" for choice in choices)
    hint = nearest(str(value), [str(choice) for choice in choices])
    raise error(f"{where}: {_describe(value)} is not one of {listed}.", remedy=hint)


def _convert_plain(hint: Any, value: Any, where: str, error: type[MotleyError]) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and not abs(value) < LARGEST_NUMBER:
        raise error(f"{where}: {_describe(value)} is not a usable number.")
    if hint is float and is_number:
        return float(value)
    if hint is int and is_number and float(value).is_integer():
        return int(value)
    if hint in (str, bool) and isinstance(value, hint):
        return value
    expected = {float: "a number", int: "a whole number", str: "a text", bool: "true or false"}
    raise error(f"{where}: expected {expected.get(hint, hint)}, found {_describe(value)}.")


def _describe(value: Any) -> str:
    if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
        return f"a number of {value.bit_length()} bits"
    return f"'{value}'" if isinstance(value, str) else str(value)


def require_rates(instance: Any, *names: str) -> None:
    """`ValueError` for the first of these learning rates that is set and not above 0, or so high
    that nothing trains."""
    require_positive(instance, *names)
    for name in names:
        rate = getattr(instance, name)
        if rate is not None and rate > HIGHEST_RATE:
            raise ValueError(f"{name}: {rate} is absurd; above {HIGHEST_RATE} nothing trains")


def require_at_most(instance: Any, **most: int) -> None:
    """`ValueError` for the first of the named fields that is set and above its limit: a number
    that no machine has room or time for, and that arithmetic of 64 bits need not stand."""
    for name, limit in most.items():
        value = getattr(instance, name)
        if value is not None and value > limit:
            raise ValueError(f"{name}: must be at most {limit}, found {value}")


def require_positive(instance: Any, *names: str) -> None:
    """`ValueError` for the first of the named fields that is set and not above zero."""
    for name in names:
        value = getattr(instance, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name}: must be above zero, found {value}")


def require_unset(instance: Any, names: Iterable[str], reason: str) -> None:
    """`ValueError` for the first of the named fields that is not at its default, where it would do
    nothing."""
    defaults = {field.name: field.default for field in dataclasses.fields(instance)}
    for name in names:
        if getattr(instance, name) != defaults[name]:
            raise ValueError(f"{name}: would do nothing, for {reason}; leave it out")
