"""When a round closes and whose turn it is: what one party expects of the others.

Nothing here decides anything for others: it only saves them waiting and double work. All times are
of one clock of one process.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from motley.federation.chain import Chain, SealedRound
from motley.federation.messages import Session
from motley.federation.objects import digest_of

PRESENCE_ROUNDS = 3
"""A party that had no update for so many rounds, and did not begin anew, is not waited for."""
CLOSING_SHARE = 0.8
"""Of the grace time: what slower parties get. The rest is for reviews and the seal."""
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

    def sealed(self, sealed: SealedRound) -> None:
        """A round is over: notes who took part."""
        for update in sealed.updates():
            before = self._last_update.get(update.party, -1)
            self._last_update[update.party] = max(update.round, before)
        self._since.clear()

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
        waited_s = self._waited_s("quorum")
        if set(self._present) <= set(published):
            return True
        return waited_s >= CLOSING_SHARE * self._chain.charter.terms.round.grace_s

    def _presence(self, sessions: Mapping[str, Session]) -> list[str]:
        terms = self._chain.charter.terms.round
        oldest = self._chain.next_round - PRESENCE_ROUNDS * terms.fragments
        present = {party for party, round_ in self._last_update.items() if round_ >= oldest}
        present |= {party for party, session in sessions.items() if session.round >= oldest}
        return [party for party in sorted(present) if self._chain.membership.is_active(party)]

    def is_turn(self, what: str, num_at_once: int) -> bool:
        """Whether this party is due with a piece of work that one of the first `num_at_once` does;
        the others come in if it was not done."""
        order = sorted({*self._present, self._party}, key=self._drawn)
        place = max(0, order.index(self._party) + 1 - num_at_once)
        grace_s = self._chain.charter.terms.round.grace_s
        step_s = (1 - CLOSING_SHARE) / 2 * grace_s / LAST_PLACE
        return self._waited_s(what) >= step_s * min(place, LAST_PLACE)

    def _drawn(self, party: str) -> str:
        return digest_of(f"{self._chain.head} {party}".encode())

    def _waited_s(self, what: str) -> float:
        now = self._clock()
        return now - self._since.setdefault(what, now)
