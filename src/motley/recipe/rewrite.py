"""Changed keys put into the text of a recipe.toml: everything else, comments too, stays as it is.

So the new file and the old one differ, line by line, in what was changed and nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from motley.recipe.transfer import Change

_HEADER = re.compile(r"^\s*\[([^\[\]]+)\]\s*(#.*)?$")


def rewritten(text: str, changes: Iterable[Change]) -> str:
    """The text with each change's value in its table, and its reason, if it has one, as the line's
    comment.

    Tables must be written with headers of their own, and changed values on one line, as in all of
    motley's recipes; whoever reads the text back sees whether that was so.
    """
    lines = text.splitlines()
    for change in changes:
        lines = _changed(lines, change)
    return "\n".join(lines) + "\n"


def _changed(lines: list[str], change: Change) -> list[str]:
    first, last = _table(lines, change.table)
    if first is None:
        return [*lines, "", f"[{change.table}]", *_written(change)]
    key = re.compile(rf"^\s*{re.escape(change.key)}\s*=[^#]*(#.*)?$")
    for index in range(first, last):
        if found := key.match(lines[index]):
            return [*lines[:index], *_written(change, found[1]), *lines[index + 1 :]]
    while last > first and not lines[last - 1].strip():
        last -= 1
    return [*lines[:last], *_written(change), *lines[last:]]


def _table(lines: list[str], table: str) -> tuple[int | None, int]:
    """The lines [first, last) of a table's keys; the top level begins the file."""
    headers = [
        (index, found[1].strip())
        for index, line in enumerate(lines)
        if (found := _HEADER.match(line))
    ]
    if not table:
        return 0, headers[0][0] if headers else len(lines)
    ends = [*(index for index, _ in headers[1:]), len(lines)]
    for (index, name), end in zip(headers, ends, strict=False):
        if name == table:
            return index + 1, end
    return None, 0


def _written(change: Change, comment: str | None = None) -> list[str]:
    """The key's line, if it stays; `comment` is the one that it had."""
    if change.value is None:
        return []
    said = f"# {change.reason}" if change.reason else comment
    line = f"{change.key} = {_value(change.value)}"
    return [f"{line}  {said}" if said else line]


def _value(value: Any) -> str:
    """TOML for a plain value. JSON writes the same, but for the few characters nobody types."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
