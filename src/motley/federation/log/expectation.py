"""When a round closes and whose turn it is: what one party expects of the others.

Nothing here decides anything for others: it only saves them waiting and double work. All times are
of one clock of one process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping

from motley.federation.charter.messages import Session
from motley.federation.log.chain import Chain, SealedRound

PRESENCE_ROUNDS = 3
"""A party that had no update for so many rounds, and did not begin anew, is not waited for."""
MOST_CLOSING_SHARE = 0.8
LEAST_CLOSING_SHARE = 0.5
"""Of the grace time: what slower parties get. The rest is for reviews and the seal, and the more
the longer these have taken here."""
LEAST_REST_S = 1.5
"""What reviews and a seal are given at least, within these shares: a few looks of busy machines."""
MARGIN = 2.5
"""The rest is so many times the longest that they took in the rounds of late."""
REMEMBERED_ROUNDS = 8
LAST_PLACE = 8
"""Places in the order behind this one wait no longer than it."""


class Expectation:
    """Of one party, of the round that is open."""

    def __init__(self, chain: Chain, party: str, clock: Callable[[], float]) -> None:
        self._chain = chain
        self._party = party
        self._clock = clock
        self._last_update: dict[str, int] = {}
        self._since: dict[str, float] = {}
        """What was first seen when, of the open round."""
        self._present: list[str] = []
        self._settling_s: deque[float] = deque(maxlen=REMEMBERED_ROUNDS)
        """From the closing of a round to its seal, in the rounds of late."""
        self.closed_at: float | None = None
        """When the open round closed for this party."""

    def sealed(self, sealed: SealedRound) -> None:
        """A round is over: notes who took part."""
        for update in sealed.updates():
            before = self._last_update.get(update.party, -1)
            self._last_update[update.party] = max(update.round, before)
        if self.closed_at is not None:
            self._settling_s.append(self._clock() - self.closed_at)
        self.closed_at = None
        self._since.clear()

    @property
    def closing_s(self) -> float:
        """How long after the quorum slower parties are waited for."""
        grace_s = self._chain.charter.terms.round.grace_s
        rest_s = max(LEAST_REST_S, MARGIN * max(self._settling_s, default=0.0))
        share = 1 - rest_s / grace_s if grace_s else 0.0
        return grace_s * min(MOST_CLOSING_SHARE, max(LEAST_CLOSING_SHARE, share))

    def is_closed(
        self,
        published: Collection[str],
        quorum: int,
        sessions: Callable[[], Mapping[str, Session]],
    ) -> bool:
        """Whether this party waits no longer for updates of the open round."""
        if len(published) < quorum:
            return False
        if "quorum" not in self._since:
            self._present = self._presence(sessions())
        is_over = self._waited_s("quorum") >= self.closing_s
        if not is_over and not set(self._present) <= set(published):
            return False
        if self.closed_at is None:
            self.closed_at = self._clock()
        return True

    def _presence(self, sessions: Mapping[str, Session]) -> list[str]:
        terms = self._chain.charter.terms.round
        oldest = self._chain.next_round - PRESENCE_ROUNDS * terms.fragments
        present = {party for party, round_ in self._last_update.items() if round_ >= oldest}
        present |= {party for party, session in sessions.items() if session.round >= oldest}
        return [party for party in sorted(present) if self._chain.membership.is_active(party)]

    def is_turn(self, what: str, num_at_once: int) -> bool:
        """Whether this party is due with a piece of work that one of the first `num_at_once` does;
        the others come in if it was not done."""
        order = sorted({*self._present, self._party}, key=self._chain.drawn)
        place = max(0, order.index(self._party) + 1 - num_at_once)
        grace_s = self._chain.charter.terms.round.grace_s
        step_s = (1 - MOST_CLOSING_SHARE) / 2 * grace_s / LAST_PLACE
        return self._waited_s(what) >= step_s * min(place, LAST_PLACE)

    def is_overdue(self, what: str) -> bool:
        """Whether something was waited for longer than the others are given for all of it."""
        return self._waited_s(what) > self._chain.charter.terms.round.grace_s

    def _waited_s(self, what: str) -> float:
        now = self._clock()
        return now - self._since.setdefault(what, now)
