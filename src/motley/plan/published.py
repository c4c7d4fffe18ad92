"""Tables of published trainings: one configuration per line, in the columns of `COLUMNS`.

A table comes from people, so nothing in it is trusted: a missing column, a cell that is no number
or a line of the wrong length is reported by its line, and the other lines are read all the same.
"""

from __future__ import annotations

import csv
import io
import re
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

_TEXTS = frozenset(
    {"source", "model", "chip", "interconnect", "zero_or_fsdp", "precision", "recompute", "notes"}
)
_WHOLE = frozenset(
    {
        "n_layers", "d_model", "n_heads", "seq_len", "vocab", "global_batch", "micro_batch",
        "n_chips", "tp", "pp", "dp",
    }
)  # fmt: skip
_NUMBER = re.compile(r"~?\s*([0-9][0-9_,]*\.?[0-9]*(?:[eE][+-]?[0-9]+)?)\s*([kKMB]?)")
_SCALES = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9}


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
    tflops_per_chip: float | None = None
    mfu: float | None = None
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
    reader = csv.reader(io.StringIO(text))
    header = [cell.strip() for cell in next(reader, [])]
    if "chip" not in header:
        raise InputError(
            f"{name}: no column 'chip'.", remedy=f"The columns are {', '.join(COLUMNS)}."
        )
    problems = _header_problems(header)
    rows: list[PublishedRow] = []
    line = 1
    while True:
        line_before = reader.line_num
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as cause:
            problems.append(Problem(line=line_before + 1, reason=f"not CSV: {cause}"))
            continue
        line = line_before + 1
        if not any(cell.strip() for cell in cells):
            continue
        row = _row(header, cells, line)
        if isinstance(row, Problem):
            problems.append(row)
        else:
            rows.append(row)
    return PublishedTable(rows=tuple(rows), problems=tuple(problems))


def _header_problems(header: list[str]) -> list[Problem]:
    missing = [column for column in COLUMNS if column not in header]
    problems = []
    if missing:
        problems.append(Problem(line=1, reason=f"no column {', '.join(missing)}: taken as empty"))
    unknown = [column for column in header if column and column not in COLUMNS]
    if unknown:
        problems.append(Problem(line=1, reason=f"unknown column {', '.join(unknown)}: not used"))
    return problems


def _row(header: list[str], cells: list[str], line: int) -> PublishedRow | Problem:
    if len(cells) != len(header):
        return Problem(line=line, reason=f"{len(cells)} cells where the header has {len(header)}")
    fields: dict[str, str | int | float | None] = {}
    for column, cell in zip(header, cells, strict=True):
        cell = cell.strip()
        if column not in COLUMNS or not cell:
            continue
        if column in _TEXTS:
            fields[column] = cell
            continue
        value = _number(cell)
        if value is None or (column in _WHOLE and value != int(value)):
            kind = "a whole number" if column in _WHOLE else "a number"
            return Problem(line=line, reason=f"{column}: expected {kind}, found '{cell}'")
        if value <= 0:
            return Problem(line=line, reason=f"{column}: must be above zero, found '{cell}'")
        fields[column] = int(value) if column in _WHOLE else value
    return PublishedRow(line=line, **fields)  # type: ignore[arg-type]


def _number(cell: str) -> float | None:
    """ "12", "1e3", "~250k" -> a number; None for anything else."""
    match = _NUMBER.fullmatch(cell)
    if match is None:
        return None
    digits = match.group(1).replace(",", "").replace("_", "")
    return float(digits) * _SCALES[match.group(2)]
