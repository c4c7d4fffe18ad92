"""Chips and links as the text of a commented cluster.toml, which reads back to the same figures."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from motley.chips.chip import DEFAULT_SITE, Chip, Link
from motley.schema import as_table

COMMENT_WIDTH = 96

Comments = Mapping[str, Sequence[str]]
"""Paragraphs by place: "" for the file, "gpu0" for a chip, "gpu0.memory_bytes" for a field of it,
and `link_key` for a link."""


def cluster_toml(
    name: str, chips: Iterable[Chip], links: Iterable[Link], comments: Comments
) -> str:
    """A cluster.toml with a comment above whatever `comments` knows something of.

    A comment on a field that is not set stands alone: it says how to fill the field in.
    """
    head = [*_comment(comments.get("", ())), f"name = {_text(name)}"]
    tables = ["\n".join(head) + "\n"]
    tables += [_chip_table(chip, comments) for chip in chips]
    tables += [link_table(link, comments.get(link_key(link), ())) for link in links]
    return "\n".join(tables)


def link_key(link: Link) -> str:
    """The key of a link's comments: "gpu0 - gpu1"."""
    return " - ".join(link.between)


def link_table(link: Link, comments: Sequence[str] = ()) -> str:
    """One commented `[[link]]` table."""
    first, second = (_text(end) for end in link.between)
    fields: dict[str, str | None] = {
        "between": f"[{first}, {second}]",
        "kind": _text(link.kind) if link.kind else None,
        "bandwidth_bytes_per_s": _number(link.bandwidth_bytes_per_s),
        "latency_s": _number(link.latency_s),
        "usd_per_gb": _set_number(link.usd_per_gb),
        "unmetered": "true" if link.unmetered else None,
        "price_source": _set_text(link.price_source),
        "emulated": "true" if link.emulated else None,
        "source": _text(link.source),
        "origin": _set_text(link.origin),
    }
    set_fields = [f"{field} = {text}" for field, text in fields.items() if text is not None]
    return "\n".join([*_comment(comments), "[[link]]", *set_fields]) + "\n"


def _chip_table(chip: Chip, comments: Comments) -> str:
    rates = ", ".join(
        f"{precision} = {_number(rate)}" for precision, rate in chip.flops_per_s.items()
    )
    fields: dict[str, str | None] = {
        "name": _text(chip.name),
        "kind": _text(chip.kind),
        "node": _text(chip.node),
        "site": None if chip.site == DEFAULT_SITE else _text(chip.site),
        "device": _text(chip.device),
        "emulated": "true" if chip.emulated else None,
        "precision": _text(chip.precision),
        "flops_per_s": f"{{ {rates} }}",
        "training_efficiency": _number(chip.training_efficiency),
        "efficiency": _efficiency(chip),
        "time_scale": None if chip.time_scale == 1.0 else _number(chip.time_scale),
        "memory_bytes": f"{chip.memory_bytes:_}",
        "memory_bandwidth_bytes_per_s": _number(chip.memory_bandwidth_bytes_per_s),
        "usd_per_hour": _set_number(chip.usd_per_hour),
        "price_source": _set_text(chip.price_source),
        "power_w": _set_number(chip.power_w),
        "source": _text(chip.source),
    }
    lines = [*_comment(comments.get(chip.name, ())), "[[chip]]"]
    for field, text in fields.items():
        lines += _comment(comments.get(f"{chip.name}.{field}", ()))
        lines += [] if text is None else [f"{field} = {text}"]
    return "\n".join(lines) + "\n"


def _efficiency(chip: Chip) -> str | None:
    if chip.efficiency is None:
        return None
    values = as_table(chip.efficiency).items()
    listed = ", ".join(
        f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}"
        for key, value in values
    )
    return f"{{ {listed} }}"


def _comment(paragraphs: Sequence[str]) -> list[str]:
    """Comment lines; a paragraph that is aligned by two spaces is a table row and stays whole."""
    lines: list[str] = []
    for paragraph in paragraphs:
        plain = "".join(char if char.isprintable() else " " for char in paragraph)
        wrapped = [plain] if "  " in plain else textwrap.wrap(plain, COMMENT_WIDTH)
        lines += [f"# {line}".rstrip() for line in wrapped or [""]]
    return lines


def _text(value: str) -> str:
    """A TOML string. JSON escapes the same characters, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _set_text(value: str | None) -> str | None:
    return None if value is None else _text(value)


def _set_number(value: float | None) -> str | None:
    return None if value is None else _number(value)


def _number(value: float) -> str:
    """The shortest text that reads back as the same number."""
    short = f"{value:.4g}"
    return short if float(short) == value else repr(value)
