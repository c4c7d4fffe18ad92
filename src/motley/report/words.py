"""Figures as text, when they may be unknown."""

from __future__ import annotations

import math
from collections.abc import Callable

from motley import units
from motley.report.records import ChipFacts

UNKNOWN = "unknown"

STATE_WORDS = {
    "running": "not finished",
    "done": "done",
    "stopped": "stopped",
    "failed": "failed",
}
"""The state of a run that is looked at from outside: it may run on or have been killed."""


def shown(value: float | None, write: Callable[[float], str], unknown: str = UNKNOWN) -> str:
    """`write(value)`, or the word for a figure that nobody knows."""
    return write(value) if value is not None and math.isfinite(value) else unknown


def loss_text(loss: float) -> str:
    return shown(loss, lambda value: f"{value:.4f}", "not finite")


def layers_text(chip: ChipFacts) -> str:
    """The layers of a chip's stage, as in the plan: "3-7", both included."""
    if chip.last_layer <= chip.first_layer:
        return "none"
    last = chip.last_layer - 1
    return f"{chip.first_layer}" if last == chip.first_layer else f"{chip.first_layer}-{last}"


def stage_text(chip: ChipFacts) -> str:
    """Replica and stage, counted from 0 as in the plan: "r0 s1"."""
    return f"r{chip.replica} s{chip.position}"


def plural(count: int, noun: str) -> str:
    """2, "chip" -> "2 chips"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def size_of(used: float | None, whole: float | None, unknown: str = UNKNOWN) -> str:
    """As `units.size_of`, where either may be unknown."""
    if used is not None and whole is not None and math.isfinite(used + whole):
        return units.size_of(used, whole)
    return f"{shown(used, units.size, unknown)} of {shown(whole, units.size, unknown)}"
