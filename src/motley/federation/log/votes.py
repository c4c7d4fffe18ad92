"""What the votes of the reviews that a seal cites come to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from motley.federation.charter.messages import Review


def decided_by(reviews: Sequence[Review], *, settles_ties: bool) -> dict[str, str]:
    """Manifest digest to reason ("" for accepted) of all that enough reviewers have voted on.

    With `settles_ties` a tie is no verdict while one of them has not voted.
    """
    votes: dict[str, list[str]] = {}
    for review in reviews:
        for vote in review.votes:
            votes.setdefault(vote.manifest, []).append(vote.reason)
    return {
        digest: _verdict(reasons)
        for digest, reasons in sorted(votes.items())
        if 2 * len(reasons) > len(reviews)
        and not (settles_ties and _is_tie(reasons) and len(reasons) < len(reviews))
    }


def _is_tie(reasons: Sequence[str]) -> bool:
    return 2 * sum(not reason for reason in reasons) == len(reasons)


def _verdict(reasons: Sequence[str]) -> str:
    if _is_tie(reasons):
        return "disputed"
    against = Counter(reason for reason in reasons if reason)
    if 2 * against.total() < len(reasons):
        return ""
    return min(against, key=lambda reason: (-against[reason], reason))
