"""Who gave what: one line per party, from the seals alone.

Weights, verdicts and bytes are what reviewers checked; tokens, steps, seconds and chips are what
each party states of itself, as far as its updates were accepted.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from motley.errors import VerificationError
from motley.federation.charter.membership import Membership
from motley.federation.log.chain import Accepted, Chain

STATED = ("tokens", "steps", "chip_seconds", "epsilon")
"""Columns that are the party's own statement."""


@dataclass(frozen=True, kw_only=True)
class LedgerLine:
    """What one party gave so far."""

    party: str
    accepted: int
    """Updates that counted."""
    rejected: int
    share: float
    """Of the weights of all accepted updates; they are tokens, bounded by the charter."""
    weight: int
    tokens: int
    steps: int
    chip_seconds: float
    payload_bytes: int
    """Stored bytes of its accepted updates."""
    seals: int
    """Rounds that it sealed."""
    reviews: int
    """Of its reviews, those that a seal cites."""
    strikes: int
    standing: Literal["active", "suspended", "removed"]
    epsilon: float | None
    """Privacy spent, as the party states it in its decided updates, rejected ones too: they were
    seen."""


COLUMNS = tuple(field.name for field in dataclasses.fields(LedgerLine))


def ledger(chain: Chain) -> list[LedgerLine]:
    """One line for each party that was ever admitted, by name."""
    accepted: dict[str, list[Accepted]] = {party: [] for party in chain.membership.standings}
    rejected, seals, reviews = Counter[str](), Counter[str](), Counter[str]()
    spent: dict[str, float] = {}
    for sealed in chain.sealed:
        seals[sealed.party] += 1
        reviews.update(review.party for review in sealed.reviews)
        rejected.update(each.update.party for each in sealed.rejected)
        for each in sealed.accepted:
            accepted[each.update.party].append(each)
        for update in sealed.updates():
            if update.epsilon is not None:
                spent[update.party] = max(update.epsilon, spent.get(update.party, 0.0))
    total = sum(each.weight for counted in accepted.values() for each in counted)
    return [
        LedgerLine(
            party=party,
            rejected=rejected[party],
            seals=seals[party],
            reviews=reviews[party],
            strikes=standing.strikes,
            standing=_standing(chain.membership, party),
            epsilon=spent.get(party),
            **_given(accepted[party], total),
        )
        for party, standing in chain.membership.standings.items()
    ]


def _given(accepted: Sequence[Accepted], total_weight: int) -> dict[str, Any]:
    """What one party's accepted updates come to."""
    updates = [each.update for each in accepted]
    weight = sum(each.weight for each in accepted)
    return {
        "accepted": len(accepted),
        "share": weight / total_weight if total_weight else 0.0,
        "weight": weight,
        "tokens": sum(update.tokens for update in updates),
        "steps": sum(update.steps for update in updates),
        "chip_seconds": math.fsum(update.chip_seconds for update in updates),
        "payload_bytes": sum(update.payload.stored_bytes for update in updates),
    }


def _standing(membership: Membership, party: str) -> Literal["active", "suspended", "removed"]:
    if membership.standings[party].is_removed:
        return "removed"
    return "suspended" if membership.is_suspended(party) else "active"


def to_csv(lines: Sequence[LedgerLine], rounds: int) -> str:
    """The ledger after so many rounds as a table that spreadsheets read; the same for all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("rounds", *COLUMNS))
    for line in lines:
        cells = dataclasses.asdict(line)
        writer.writerow([rounds, *("" if cells[name] is None else cells[name] for name in COLUMNS)])
    return text.getvalue()


def rounds_of_csv(text: str) -> int:
    """After how many rounds a ledger was written; `VerificationError` if it is none."""
    rows = list(csv.reader(io.StringIO(text)))
    try:
        if tuple(rows[0]) != ("rounds", *COLUMNS):
            raise ValueError("its columns are others")
        rounds = {int(row[0]) for row in rows[1:]}
        (number,) = rounds
    except (IndexError, ValueError) as cause:
        raise VerificationError(
            f"this is no ledger of motley: {cause}.",
            remedy="Make one: motley federation ledger STORE --out ledger.csv",
        ) from None
    return number
