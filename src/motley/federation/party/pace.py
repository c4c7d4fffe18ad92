"""How many local steps a party takes for a round, so that unlike parties are ready together.

The charter's H is meant for the middle party. A party that does twice as many steps in a second
takes twice as many steps for a round: nobody waits, and updates count by their tokens (dynamic
local updates: Liu et al., arXiv 2401.09135).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from motley.federation.charter.messages import Update
from motley.federation.charter.terms import RoundTerms
from motley.recipe import ScheduleConfig

WIDEST = 4.0
"""A party takes at most so many times the charter's steps, and at least that part of them."""


def steps_between(terms: RoundTerms) -> int:
    """Local steps of the middle party from one round to the next."""
    return terms.local_steps // terms.fragments


def num_rounds(terms: RoundTerms, schedule: ScheduleConfig) -> int:
    """Rounds that the shared schedule lasts."""
    return -(-schedule.steps // steps_between(terms))


def local_steps(
    terms: RoundTerms, own_steps_per_s: float | None, round_before: Iterable[Update]
) -> int:
    """Steps to take for the coming round, by the manifests of the round before.

    Without a rate of its own or of others a party takes what the charter says.
    """
    middle = steps_between(terms)
    rates = [update.steps / update.seconds for update in round_before if update.seconds > 0]
    if not own_steps_per_s or not rates:
        return middle
    ratio = own_steps_per_s / statistics.median_low(rates)
    return max(1, round(middle * min(WIDEST, max(1 / WIDEST, ratio))))


@dataclass(frozen=True)
class Progress:
    """Where a party stands: the round that it trains for, and how far it is with it."""

    round: int
    steps: int
    """Done for this round."""
    target: int
    """To be done for it."""

    def schedule_step(self, terms: RoundTerms) -> float:
        """The place in the shared schedule, in steps of the middle party."""
        share = min(1.0, self.steps / self.target)
        return (self.round + share) * steps_between(terms)
