"""What a party's events say of a sealed round."""

from __future__ import annotations

from typing import Any

from motley.federation.charter.messages import Update
from motley.federation.log.chain import SealedRound


def round_fields(sealed: SealedRound) -> dict[str, Any]:
    """The fields of a `federation_round` event that follow from the seal."""
    return {
        "round": sealed.round,
        "sealed_by": sealed.party,
        "accepted": [_row(each.update, weight=each.weight) for each in sealed.accepted],
        "rejected": [_row(each.update, reason=each.reason) for each in sealed.rejected],
    }


def _row(update: Update, **verdict: Any) -> dict[str, Any]:
    """What the party's manifest says, and what became of it."""
    return {
        "party": update.party,
        "round": update.round,
        "tokens": update.tokens,
        "steps": update.steps,
        "seconds": update.seconds,
        "chip_seconds": update.chip_seconds,
        "loss": update.loss,
        "epsilon": update.epsilon,
        "bytes": update.payload.stored_bytes,
        **verdict,
    }
