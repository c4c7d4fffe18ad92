"""Tables of published trainings: one configuration per line, in the columns of `COLUMNS`.

A table comes from people, so nothing in it is trusted: a missing column, a cell that is no number
or a line of the wrong length is reported by its line, and the other lines are read all the same.
What spreadsheets do is put up with: columns in any order and case, semicolons or tabs, empty cells
behind the last column, and words such as "n/a" where a number is not known. A comma in a number is
read between groups of thousands only; beside semicolons, where it mostly is a decimal one, never.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from motley.errors import InputError

COLUMNS = (
    "source", "model", "params_b", "n_layers", "d_model", "n_heads", "seq_len", "vocab",
    "global_batch", "micro_batch", "chip", "n_chips", "interconnect", "tp", "pp", "dp",
    "zero_or_fsdp", "precision", "recompute", "tokens_per_s_total", "tflops_per_chip", "mfu",
    "step_s", "notes",
)  # fmt: skip
"""All that a table may have. Without `chip` nothing can be predicted; the rest may be missing."""

_NOT_READ = frozenset({"tflops_per_chip", "mfu"})
"""Follow from the others: whatever stands there, no prediction asks for it."""

_TEXTS = frozenset(
    {"source", "model", "chip", "interconnect", "zero_or_fsdp", "precision", "recompute", "notes"}
)
_WHOLE = frozenset(
    {
        "n_layers", "d_model", "n_heads", "seq_len", "vocab", "global_batch", "micro_batch",
        "n_chips", "tp", "pp", "dp",
    }
)  # fmt: skip
_NUMBER = re.compile(
    r"-?~?\s*((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9][0-9_]*)(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)\s*([kKMB]?)"
)
_SCALES = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9}
_NOT_KNOWN = frozenset(
    {"-", "--", "\u2013", "\u2014", "?", "n/a", "na", "nan", "none", "null", "unknown"}
)
"""What people write where they have no number."""

LARGEST = {
    "params_b": 1_000_000, "n_layers": 1_000, "d_model": 1_000_000, "n_heads": 1_000_000,
    "seq_len": 10**9, "vocab": 10**9, "global_batch": 10**12, "micro_batch": 10**9,
    "n_chips": 1_000_000, "tp": 1_000_000, "pp": 1_000_000, "dp": 1_000_000,
}  # fmt: skip
"""A larger number is a slip of the pen."""

DELIMITERS = ",;\t"


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One line of a table; an empty cell is None or ""."""

    line: int
    source: str = ""
    model: str = ""
    params_b: float | None = None
    n_layers: int | None = None
    d_model: int | None = None
    n_heads: int | None = None
    seq_len: int | None = None
    vocab: int | None = None
    global_batch: int | None = None
    micro_batch: int | None = None
    chip: str = ""
    n_chips: int | None = None
    interconnect: str = ""
    tp: int | None = None
    pp: int | None = None
    dp: int | None = None
    zero_or_fsdp: str = ""
    precision: str = ""
    recompute: str = ""
    tokens_per_s_total: float | None = None
    step_s: float | None = None
    notes: str = ""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is wrong with one line; line 1 is the header."""

    line: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    rows: tuple[PublishedRow, ...]
    problems: tuple[Problem, ...]
    """Lines that could not be read, and what the header lacks."""


def read_table(path: Path) -> PublishedTable:
    """The table of a CSV file; `InputError` if there is none or it has no column `chip`."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.", remedy="Check the path.") from None
    except (OSError, UnicodeDecodeError) as cause:
        raise InputError(f"{path}: cannot be read: {cause}.", remedy="Give a CSV file.") from None
    return parse_table(text, path.name)


def parse_table(text: str, name: str = "table") -> PublishedTable:
    """The same from the text of the file."""
    lines = list(io.StringIO(text, newline=""))
    begin = next((at for at, line in enumerate(lines) if line.strip()), 0)
    first = lines[begin] if lines else ""
    delimiter = max(DELIMITERS, key=first.count)
    header = [cell.strip().lower() for cell in next(csv.reader([first], delimiter=delimiter), [])]
    if "chip" not in header:
        raise InputError(
            f"{name}: no column 'chip'.", remedy=f"The columns are {', '.join(COLUMNS)}."
        )
    problems = _header_problems(header)
    rows: list[PublishedRow] = []
    for line, cells in _records(lines, begin + 1, len(header), delimiter):
        row = cells if isinstance(cells, Problem) else _row(header, cells, line, delimiter)
        if isinstance(row, Problem):
            problems.append(row)
        else:
            rows.append(row)
    return PublishedTable(rows=tuple(rows), problems=tuple(problems))


def _records(
    lines: Sequence[str], at: int, num_columns: int, delimiter: str
) -> Iterator[tuple[int, list[str] | Problem]]:
    """The cells of every record from `at` on that is not empty, with the line it begins on.

    A record that runs over several lines and has not the header's length has a quote that is not
    closed: its first line is reported, and reading goes on behind that.
    """
    while at < len(lines):
        reader = csv.reader(lines[at:], delimiter=delimiter, strict=True)
        begin = at
        while at < len(lines):
            line = at + 1
            try:
                cells = next(reader)
            except csv.Error as cause:
                yield line, Problem(line=line, reason=f"not CSV: {cause}")
                at += 1
                break
            ended = begin + reader.line_num
            if ended - at > 1 and len(cells) != num_columns:
                yield line, Problem(line=line, reason="a quote is not closed")
                at += 1
                break
            at = ended
            if any(cell.strip() for cell in cells):
                yield line, _without_empty_end(cells, num_columns)


def _without_empty_end(cells: list[str], num_columns: int) -> list[str]:
    """The cells without empty ones behind the last column."""
    extra = cells[num_columns:]
    return cells if any(cell.strip() for cell in extra) else cells[:num_columns]


def _header_problems(header: list[str]) -> list[Problem]:
    missing = [column for column in COLUMNS if column not in (*header, *_NOT_READ)]
    problems = []
    if missing:
        problems.append(Problem(line=1, reason=f"no column {', '.join(missing)}: taken as empty"))
    unknown = [column for column in header if column and column not in COLUMNS]
    if unknown:
        problems.append(Problem(line=1, reason=f"unknown column {', '.join(unknown)}: not used"))
    twice = [column for column in COLUMNS if header.count(column) > 1]
    if twice:
        reason = f"column {', '.join(twice)} more than once: the last that is filled counts"
        problems.append(Problem(line=1, reason=reason))
    return problems


def _row(header: list[str], cells: list[str], line: int, delimiter: str) -> PublishedRow | Problem:
    if len(cells) != len(header):
        return Problem(line=line, reason=f"{len(cells)} cells where the header has {len(header)}")
    fields: dict[str, str | int | float | None] = {}
    for column, cell in zip(header, cells, strict=True):
        cell = cell.strip()
        if column not in COLUMNS or column in _NOT_READ or not cell:
            continue
        if column in _TEXTS:
            fields[column] = cell
        elif cell.lower() not in _NOT_KNOWN:
            value = _value(column, cell, delimiter)
            if isinstance(value, str):
                return Problem(line=line, reason=f"{column}: {value}, found '{cell}'")
            fields[column] = value
    return PublishedRow(line=line, **fields)  # type: ignore[arg-type]


def _value(column: str, cell: str, delimiter: str) -> float | str:
    """The number of a cell, or what is wrong with it."""
    if delimiter == ";" and "," in cell:
        return "beside semicolons a comma may be a decimal one: write 2.5 and 1200"
    value = _number(cell)
    if value is None or (column in _WHOLE and not value.is_integer()):
        return f"expected {'a whole number' if column in _WHOLE else 'a number'}"
    if value <= 0:
        return "must be above zero"
    if value > LARGEST.get(column, math.inf):
        return f"more than {LARGEST[column]}"
    return int(value) if column in _WHOLE else value


def _number(cell: str) -> float | None:
    """ "12", "1e3", "~250k", "1,200" -> a finite number; None for anything else."""
    match = _NUMBER.fullmatch(cell)
    if match is None:
        return None
    digits = match.group(1).replace(",", "").replace("_", "")
    sign = -1.0 if cell.startswith("-") else 1.0
    value = sign * float(digits) * _SCALES[match.group(2)]
    return value if math.isfinite(value) else None
