"""The page's section on a run that is a party of a federation: its parties and its rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from motley.report.history import RunHistory
from motley.report.ledger_page import epsilon_text
from motley.report.markup import Child, Markup, join, tag
from motley.report.records import number, text
from motley.report.tables import table
from motley.report.words import loss_text, plural, shown
from motley.units import duration, percent, si, size

SHOWN_ROUNDS = 50
"""The newest rounds that have a row of their own."""


@dataclass
class _Party:
    """What the seals say of one party, as far as this run took them in."""

    accepted: int = 0
    tokens: float = 0.0
    chip_seconds: float = 0.0
    weight: float = 0.0
    loss: float | None = None
    sent_bytes: float = 0.0
    epsilon: float | None = None
    reasons: list[str] = field(default_factory=list)

    def note_privacy(self, row: Mapping[str, Any]) -> None:
        """The most that the party's updates say was spent."""
        if row.get("epsilon") is not None:
            self.epsilon = max(number(row, "epsilon"), self.epsilon or 0.0)


def federation_section(history: RunHistory) -> Markup | None:
    """Both tables; None for a run of its own."""
    rounds = list(history.rounds)
    if not rounds:
        return None
    return join(
        [
            tag("p", _in_short(history), class_="lead"),
            _parties(rounds),
            tag("p", _counted(rounds), class_="note"),
            _rounds(rounds),
        ]
    )


def _counted(rounds: Sequence[Mapping[str, Any]]) -> str:
    """Which rounds the parties' table is of."""
    sealed = number(rounds[-1], "round") + 1
    if len(rounds) == sealed:
        return f"Parties: of all {plural(len(rounds), 'round')} so far, as in the ledger."
    return (
        f"Parties: of the {plural(len(rounds), 'round')} that this run took in one by one, of "
        f"{shown(sealed, lambda value: f'{value:.0f}')} that are sealed. Shares of all of them are "
        "in the ledger: motley federation ledger STORE."
    )


def _in_short(history: RunHistory) -> str:
    last = history.rounds[-1]
    sent, received = number(last, "sent_bytes"), number(last, "received_bytes")
    updates = history.updates
    seconds = sum(number(update, "seconds") for update in updates)
    paused_s = sum(number(update, "paused_s") for update in updates)
    still = paused_s / (seconds + paused_s) if seconds > 0 else None
    return (
        f"{plural(len(history.rounds), 'round')} taken in; the state is "
        f"{text(last, 'digest')[:16]}. Sent {shown(sent, size)}, received {shown(received, size)} "
        "in this session. "
        f"Training stood still for {shown(still, percent)} of the time."
    )


def _parties(rounds: Sequence[Mapping[str, Any]]) -> Markup:
    parties: dict[str, _Party] = {}
    for event in rounds:
        for row in event.get("accepted") or ():
            party = parties.setdefault(text(row, "party"), _Party())
            party.accepted += 1
            party.tokens += number(row, "tokens")
            party.chip_seconds += number(row, "chip_seconds")
            party.weight += number(row, "weight")
            party.sent_bytes += number(row, "bytes")
            party.loss = number(row, "loss")
            party.note_privacy(row)
        for row in event.get("rejected") or ():
            party = parties.setdefault(text(row, "party"), _Party())
            party.reasons.append(f"{text(row, 'reason')} in round {_whole(row, 'round')}")
            party.note_privacy(row)
    total = sum(party.weight for party in parties.values())
    is_private = any(party.epsilon is not None for party in parties.values())
    rows = [
        _party_row(name, party, total, is_private=is_private)
        for name, party in sorted(parties.items())
    ]
    head = (
        "party", "accepted", "tokens (stated)", "chip-seconds (stated)", "share", "bytes",
        "epsilon (stated)" if is_private else "loss (stated)", "rejected",
    )  # fmt: skip
    return table(head, rows, "Parties")


def _party_row(name: str, party: _Party, total: float, *, is_private: bool) -> list[Child]:
    """Where there is privacy no loss is published, and what is spent takes its place."""
    said = ", ".join(party.reasons[-3:])
    return [
        tag("b", name),
        str(party.accepted),
        shown(party.tokens, si),
        shown(party.chip_seconds, si),
        shown(party.weight / total if total else None, percent),
        shown(party.sent_bytes, size),
        epsilon_text(party.epsilon) if is_private else shown(party.loss, loss_text),
        tag("span", said, class_="problem") if said else "none",
    ]


def _whole(table: Mapping[str, Any], key: str) -> str:
    return shown(number(table, key), lambda value: f"{value:.0f}")


def _rounds(rounds: Sequence[Mapping[str, Any]]) -> Markup:
    rows: list[list[Child]] = [
        [
            _whole(event, "round"),
            text(event, "sealed_by"),
            str(len(event.get("accepted") or ())),
            str(len(event.get("rejected") or ())),
            shown(number(event, "round_s"), duration),
            shown(number(event, "apply_s"), duration),
            text(event, "digest")[:16],
        ]
        for event in rounds[-SHOWN_ROUNDS:]
    ]
    head = ("round", "sealed by", "accepted", "rejected", "took", "outer step", "state after it")
    return table(head, rows, "Rounds")
