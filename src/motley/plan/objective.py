"""What a plan is chosen for: the shortest step, the least money, or the least money in time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from motley.chips.chip import Chip
from motley.errors import ClusterError, InputError

Goal = Literal["time", "cost", "deadline"]

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A goal; with "deadline" also how long a step may take."""

    goal: Goal = "time"
    longest_step_s: float = float("inf")

    def __post_init__(self) -> None:
        if self.goal == "deadline" and not 0 < self.longest_step_s < float("inf"):
            raise InputError(
                "the goal 'deadline' needs a time to end in.", remedy="Give one: --hours 48."
            )

    @property
    def needs_prices(self) -> bool:
        return self.goal != "time"

    def score(self, step_s: float, usd_per_hour: float) -> float:
        """What the search makes as small as it can: seconds or USD of a step."""
        if self.goal == "time":
            return step_s
        if step_s > self.longest_step_s:
            return float("inf")
        return step_s * usd_per_hour / SECONDS_PER_HOUR


FASTEST = Objective()
"""The shortest step, whatever it costs."""


def usd_per_hour(chips: Iterable[Chip], what_for: str) -> float:
    """The price of the chips together; `ClusterError` names kinds whose price is unknown."""
    total, unknown = 0.0, set()
    for chip in chips:
        if chip.usd_per_hour is None:
            unknown.add(chip.kind)
        else:
            total += chip.usd_per_hour
    if unknown:
        raise ClusterError(
            f"{what_for} needs the price of every chip, and that of "
            f"{', '.join(sorted(unknown))} is unknown.",
            remedy="Give usd_per_hour in the chip's or group's table of cluster.toml.",
        )
    return total
