"""What makes a member vote against an update. Reasons are the words of the protocol; "" accepts.

All but the loss gate are pure functions of the payloads in the order in which a reviewer saw them,
which its votes keep: a later replay comes to the same verdict, bit for bit (`comparing`). Of two
copies that order says which is the original, so reviewers may differ there. The loss gate is
measured on each reviewer's own held-out text.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from motley.errors import PayloadError
from motley.federation.charter.terms import AggregateConfig, DefenceConfig
from motley.federation.codec.codec import Codec
from motley.federation.codec.layout import Shapes
from motley.federation.codec.payload import Payload
from motley.federation.state.gate import largest_rise
from motley.federation.state.similarity import Cosines, agreement, cosines, sign_scores

SURELY_COPIED = 0.999
"""Cosine from which two updates are one, whatever the others look like. A test trains two parties
with text of their own from the same start and holds the cosine of their updates below 0.99, the
very first step included, in which it is highest."""
COPIED_SHARE = 0.2
"""Two updates are also one if they are this much closer (1 - cosine) than the median pair."""
OPPOSED = -0.1
"""Agreement with all others below which an update works against them."""
NOISE_SCORE = 4.0
"""Score below which an update cannot be told from noise: one of 30,000 draws of noise is above."""
NOISE_SHARE = 0.25
"""Of the middle update's agreement with the others: noise has less."""
_MIN_PAIRS = 3
_MIN_FOR_NOISE = 3


@dataclass(frozen=True, kw_only=True)
class Review:
    """What a judgement was based on, by candidate."""

    reasons: list[str]
    norms: list[float]
    """L2; 0 where the payload is not readable."""
    agreements: list[float]
    """Cosine with the sum of the other directions; 0 where it was not needed."""
    scores: list[float]
    """How far that is from chance (`similarity.sign_scores`); 0 where it was not needed."""
    rises: list[float]
    """Of the held-out loss, in nats per token; 0 where it was not measured."""


def judge(
    payloads: Sequence[Payload],
    *,
    codec: Codec,
    shapes: Shapes,
    aggregate: AggregateConfig,
    defences: DefenceConfig,
    tokens: Sequence[int] | None = None,
    earlier: Sequence[Payload] = (),
    gate: Callable[[Sequence[Payload]], list[float]] | None = None,
) -> Review:
    """A reason for each candidate of a round, given in the order in which the reviewer saw them.

    `tokens` are those that each was trained on, else as many for all. `earlier` are payloads of
    rounds before for the same parameters. `gate` measures how much each
    update alone raises the held-out loss; it is asked only for what all else accepts.
    """
    review = _read(payloads, codec, shapes)
    shares = [1] * len(payloads) if tokens is None else tokens
    _refuse(review, _by_norm(review, shares, defences))
    alive = [index for index, reason in enumerate(review.reasons) if not reason]
    if len(alive) + len(earlier) > 1:
        _refuse_alike(review, alive, payloads, earlier, codec, shapes, aggregate)
    if defences.noise:
        _refuse_noise(review, payloads, codec, shapes)
    if gate is not None and defences.loss_gate is not None:
        alive = [index for index, reason in enumerate(review.reasons) if not reason]
        rises = gate([payloads[index] for index in alive])
        limit = largest_rise(rises, defences.loss_gate)
        for index, rise in zip(alive, rises, strict=True):
            review.rises[index] = rise
            if not rise <= limit or not math.isfinite(rise):
                review.reasons[index] = "loss_gate"
    return review


def krum_scores(norms: Sequence[float], alike: Cosines, num_attackers: int) -> list[float]:
    """Krum (Blanchard et al., NeurIPS 2017): each update's squared distances to its nearest
    n - f - 2 others, summed; large for what stands apart."""
    count = len(norms)
    near = max(1, count - num_attackers - 2)
    scores = []
    for a in range(count):
        distances = sorted(
            norms[a] ** 2 + norms[b] ** 2 - 2 * norms[a] * norms[b] * float(alike[a, b])
            for b in range(count)
            if b != a
        )
        scores.append(math.fsum(distances[:near]))
    return scores


def find_copies(alike: Cosines, num_earlier: int = 0) -> dict[int, int]:
    """Copy to original, as rows of `alike`: the first `num_earlier` are of rounds before, the rest
    in the order in which they were seen. Only the later of two is a copy.

    Among those of one round a pair that is far closer than the others is one. With rounds before
    only what is sure counts: a party's own update is naturally close to its last one, the closer
    the fewer steps lie between.
    """
    count = len(alike)
    fresh = range(num_earlier, count)
    surely = 1 - SURELY_COPIED
    pairs = [1 - float(alike[a, b]) for a in fresh for b in fresh if b < a]
    limit = surely
    if len(pairs) >= _MIN_PAIRS:
        limit = max(limit, COPIED_SHARE * statistics.median_low(pairs))
    found: dict[int, int] = {}
    for a in fresh:
        near = {b: 1 - float(alike[a, b]) for b in range(a)}
        copied = [b for b, apart in near.items() if apart < (surely if b < num_earlier else limit)]
        if copied:
            found[a] = min(copied, key=lambda b: near[b])
    return found


def _read(payloads: Sequence[Payload], codec: Codec, shapes: Shapes) -> Review:
    reasons, norms = [], []
    for payload in payloads:
        try:
            norms.append(math.sqrt(codec.squared_norm(payload, shapes)))
            reasons.append("")
        except PayloadError as refused:
            norms.append(0.0)
            reasons.append(refused.reason)
    zeros = [0.0] * len(payloads)
    return Review(
        reasons=reasons, norms=norms, agreements=zeros, scores=list(zeros), rises=list(zeros)
    )


def _refuse(review: Review, reasons: Mapping[int, str]) -> None:
    for index, reason in reasons.items():
        review.reasons[index] = review.reasons[index] or reason


def _by_norm(review: Review, tokens: Sequence[int], defences: DefenceConfig) -> dict[int, str]:
    """Far longer or far shorter than the median and its tokens let expect: who says that it has
    trained must have moved, a slow party that has trained little may have moved little, and beside
    one that was stopped after a step the others have moved far. Tokens lengthen an update's bound
    no further than they lengthen its weight."""
    alive = [index for index, reason in enumerate(review.reasons) if not reason]
    if not alive:
        return {}
    median = statistics.median_low(review.norms[index] for index in alive)
    usual = statistics.median_low(tokens[index] for index in alive)
    ratio = defences.max_norm_ratio

    def is_far(index: int) -> bool:
        norm, share = review.norms[index], tokens[index] / usual
        longest = ratio * median * min(max(1.0, share), defences.max_weight_ratio)
        return norm > longest or norm * ratio < median * min(1.0, share)

    return {index: "outlier" for index in alive if is_far(index)}


def _refuse_noise(
    review: Review, payloads: Sequence[Payload], codec: Codec, shapes: Shapes
) -> None:
    """What has no more in common with the others than noise has, where these have much."""
    alive = [index for index, reason in enumerate(review.reasons) if not reason]
    if len(alive) < _MIN_FOR_NOISE:
        return
    norms = [review.norms[index] for index in alive]
    scores = sign_scores([payloads[index] for index in alive], norms, codec, shapes)
    for index, score in zip(alive, scores, strict=True):
        review.scores[index] = score
    if statistics.median_low(scores) < 2 * NOISE_SCORE:
        return
    usual = statistics.median_low(review.agreements[index] for index in alive)
    for index in alive:
        if review.scores[index] < NOISE_SCORE and review.agreements[index] < NOISE_SHARE * usual:
            review.reasons[index] = "noise"


def _refuse_alike(
    review: Review,
    alive: Sequence[int],
    payloads: Sequence[Payload],
    earlier: Sequence[Payload],
    codec: Codec,
    shapes: Shapes,
    aggregate: AggregateConfig,
) -> None:
    """Copies first, then what opposes the rest, then what Krum leaves out."""
    together = [*earlier, *(payloads[index] for index in alive)]
    before = [math.sqrt(codec.squared_norm(payload, shapes)) for payload in earlier]
    alike = cosines(together, [*before, *(review.norms[i] for i in alive)], codec, shapes)
    copies = find_copies(alike, len(earlier))
    rows = [row for row in range(len(earlier), len(together)) if row not in copies]
    _refuse(review, {alive[copy - len(earlier)]: "copied" for copy in copies})
    alive = [alive[row - len(earlier)] for row in rows]
    alike = alike[rows][:, rows]
    for row, index in enumerate(alive):
        review.agreements[index] = agreement(alike, row)
    if len(alive) > 2:
        _refuse(review, {i: "outlier" for i in alive if review.agreements[i] < OPPOSED})
    if aggregate.aggregate == "krum":
        norms = [review.norms[index] for index in alive]
        scores = krum_scores(norms, alike, aggregate.assumed_attackers)
        worst = sorted(range(len(alive)), key=lambda row: (-scores[row], row))
        dropped = worst[: min(aggregate.assumed_attackers, max(0, len(alive) - 1))]
        _refuse(review, {alive[row]: "outlier" for row in dropped})
