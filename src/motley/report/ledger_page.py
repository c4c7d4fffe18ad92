"""The page of a federation's ledger: who gave what, from the charter on.

motley federation ledger STORE --html ledger.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from motley.report.document import document, page_header, section, write_page
from motley.report.markup import Child, Markup, join, tag
from motley.report.records import number, text
from motley.report.tables import table
from motley.report.words import plural, shown
from motley.units import percent, si, size

Line = Mapping[str, Any]
"""A party's line of the ledger, by the names of its columns."""


@dataclass(frozen=True, kw_only=True)
class LedgerFacts:
    """What the page says beside the lines."""

    name: str
    fingerprint: str
    rounds: int
    """Sealed so far."""
    delta: float | None
    """Of the differential privacy; None where there is none."""


def write_ledger_page(path: Path, facts: LedgerFacts, lines: Sequence[Line]) -> Path:
    """Write the page, whole or not at all, and return its path; `StorageError` if it cannot be."""
    return write_page(path, ledger_html(facts, lines))


def ledger_html(facts: LedgerFacts, lines: Sequence[Line]) -> str:
    """The whole page as text."""
    counted = f"{len(lines)} {'party' if len(lines) == 1 else 'parties'}"
    in_short = (
        f"{plural(facts.rounds, 'sealed round')} · {counted} · fingerprint {facts.fingerprint}"
    )
    sections = [
        section(
            "shares",
            "Shares",
            _shares(lines),
            "The part of all weights, which count in the model. The mark is the party's part of "
            "all chip-seconds, as each states its own.",
        ),
        section("parties", "Parties", _table(lines, facts.delta), _how_known(facts)),
    ]
    return document(
        f"{facts.name}: motley federation ledger",
        page_header("motley federation ledger", facts.name, in_short, ()),
        sections,
        tag("footer", tag("p", "Made from the chain of seals by motley; verify repeats it.")),
        ("page.css",),
    )


def _how_known(facts: LedgerFacts) -> str:
    said = (
        "Weights, verdicts and bytes were checked by the reviewers. Tokens, steps and chip-seconds "
        "are each party's own statement, of its accepted updates."
    )
    if facts.delta is None:
        return said
    return f"{said} So is epsilon, the privacy spent at delta {facts.delta:g} in all its updates."


def _shares(lines: Sequence[Line]) -> Markup:
    seconds = sum(number(line, "chip_seconds") for line in lines)
    keys = (("box used", "share of the weights"), ("mark", "share of the chip-seconds (stated)"))
    legend = [tag("li", tag("i", class_=kind), said) for kind, said in keys]
    rows = [_share_row(line, seconds) for line in lines]
    return join([tag("div", *rows, class_="bars memory"), tag("ul", *legend, class_="legend")])


def _share_row(line: Line, all_seconds: float) -> Markup:
    share = number(line, "share")
    parts = [tag("span", class_="part used", style=f"width:{share:.2%}")]
    said = f"{text(line, 'party')}: {percent(share)} of the weights"
    if all_seconds > 0:
        computed = number(line, "chip_seconds") / all_seconds
        parts.append(tag("i", class_="mark", style=f"left:{computed:.2%}"))
        said += f", {percent(computed)} of the chip-seconds"
    bar = tag("div", *parts, class_="bar", role="img", aria_label=said, data_tip=said)
    name = tag("div", tag("b", text(line, "party")), class_="who")
    return tag("div", name, bar, tag("span", percent(share), class_="amount"), class_="row")


def _table(lines: Sequence[Line], delta: float | None) -> Markup:
    head = (
        "party", "standing", "share", "accepted", "rejected", "tokens (stated)", "steps (stated)",
        "chip-seconds (stated)", "bytes", "sealed", "reviewed", "strikes",
    )  # fmt: skip
    spent = () if delta is None else ("epsilon (stated)",)
    return table((*head, *spent), [_row(line, delta) for line in lines], "Parties")


def _row(line: Line, delta: float | None) -> list[Child]:
    standing = text(line, "standing")
    cells: list[Child] = [
        tag("b", text(line, "party")),
        standing if standing == "active" else tag("span", standing, class_="problem"),
        percent(number(line, "share")),
        *(f"{number(line, name):.0f}" for name in ("accepted", "rejected")),
        si(number(line, "tokens")),
        si(number(line, "steps")),
        si(number(line, "chip_seconds")),
        size(number(line, "payload_bytes")),
        *(f"{number(line, name):.0f}" for name in ("seals", "reviews", "strikes")),
    ]
    if delta is not None:
        cells.append(epsilon_text(line.get("epsilon")))
    return cells


def epsilon_text(epsilon: float | None) -> str:
    """The privacy that a party's updates have spent."""
    return shown(epsilon, lambda value: f"{value:.3g}", "none stated")
