"""What reviewers must have found when they compared the updates of a round, once more.

A member compares what it has in the order in which it saw it, and its votes keep that order. So the
same updates in the order of its votes give the same reasons, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping

from motley.federation.state.reviewing import Candidate
from motley.federation.state.state import GlobalState

NOT_COMPARED = frozenset({"damaged", "missing", "oversized", "wrong_base", "wrong_epoch"})
"""Reasons for which a reviewer leaves an update out before it compares the others."""

Place = tuple[int, str]
"""Round and party of an update."""


class Comparisons:
    """The reviewers' comparisons of one round; equal ones are made once."""

    def __init__(
        self, state: GlobalState, round_: int, candidates: Mapping[Place, Candidate]
    ) -> None:
        """`state` is that before the round; `candidates` are those that can be had and began from
        the right state."""
        self._state = state
        self._round = round_
        self._candidates = candidates
        self._found: dict[tuple[tuple[Place, ...], bool], dict[Place, str]] = {}

    def right(self, votes: Mapping[Place, str]) -> dict[Place, str]:
        """The vote on each update that follows from the others; `votes` are a reviewer's, in order.

        Nothing if one of them cannot be had. Who has joined since does not know the updates of the
        rounds before: votes that are right without these are right.
        """
        order = tuple(place for place, reason in votes.items() if reason not in NOT_COMPARED)
        if not self._candidates.keys() >= set(order):
            return {}
        found = [self._allowing(votes, self._compare(order, knows_earlier=True))]
        if not _agree(votes, found[0]):
            found.append(self._allowing(votes, self._compare(order, knows_earlier=False)))
        return found[-1] if _agree(votes, found[-1]) else found[0]

    def _compare(self, order: tuple[Place, ...], *, knows_earlier: bool) -> dict[Place, str]:
        key = (order, knows_earlier)
        if key not in self._found:
            candidates = [self._candidates[place] for place in order]
            reasons = self._state.judge(self._round, candidates, knows_earlier=knows_earlier)
            self._found[key] = dict(zip(order, reasons, strict=True))
        return self._found[key]

    def _allowing(self, votes: Mapping[Place, str], found: Mapping[Place, str]) -> dict[Place, str]:
        """The loss gate is asked for what all else accepts, and nobody else can measure it. A copy
        that came at one time with another update is `disputed`, and nobody else saw when."""
        allowed = {("copied", "disputed")}
        if self._state.terms.defences.loss_gate is not None:
            allowed.add(("", "loss_gate"))
        return {
            place: votes[place] if (reason, votes[place]) in allowed else reason
            for place, reason in found.items()
        }


def _agree(votes: Mapping[Place, str], right: Mapping[Place, str]) -> bool:
    return all(votes[place] == reason for place, reason in right.items())
