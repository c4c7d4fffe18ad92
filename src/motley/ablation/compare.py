"""What an ablation says: each variant's mean with its interval, and whether it differs from the
base or only seems to."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from motley.ablation.ladder import BASE
from motley.ablation.runs import Outcome
from motley.ablation.statistics import Interval, difference_interval, mean_interval

Verdict = Literal["base", "lower", "higher", "noise", "no claim", "diverged"]
"""Lower bits per byte is better; "noise" where the interval of the difference holds zero; "no
claim" where there are too few runs for an interval, "diverged" where a run did."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One variant's finished runs."""

    variant: str
    seeds: tuple[int, ...]
    mean: float
    """Bits per byte."""
    interval: Interval | None
    difference: Interval | None
    """To the base, Welch's; None for the base itself and where nothing can be said."""
    verdict: Verdict
    flops: float
    """Of one run; mean, counted."""
    training_s: float
    """Mean wall time of a run's steps."""
    flops_ratio: float | None
    time_ratio: float | None
    """Over the base's; None without both, or where one diverged."""


def compare(outcomes: Sequence[Outcome], variants: Sequence[str]) -> list[Row]:
    """A row for each variant that has a finished run, in the order of `variants`."""
    base, base_cost = _values(outcomes, BASE), _cost(outcomes, BASE)
    rows = []
    for variant in variants:
        own = [outcome for outcome in outcomes if outcome.variant == variant]
        if not own:
            continue
        values = [outcome.bits_per_byte for outcome in own]
        is_finite = all(map(math.isfinite, values))
        comparable = variant != BASE and is_finite and all(map(math.isfinite, base))
        difference = difference_interval(values, base) if comparable else None
        flops, seconds = _cost(outcomes, variant)
        rows.append(
            Row(
                variant=variant,
                seeds=tuple(outcome.seed for outcome in own),
                mean=statistics.fmean(values),
                interval=mean_interval(values) if is_finite else None,
                difference=difference,
                verdict=_verdict(variant, difference) if is_finite else "diverged",
                flops=flops,
                training_s=seconds,
                flops_ratio=_ratio(flops, base_cost[0]) if comparable else None,
                time_ratio=_ratio(seconds, base_cost[1]) if comparable else None,
            )
        )
    return rows


def _values(outcomes: Sequence[Outcome], variant: str) -> list[float]:
    return [outcome.bits_per_byte for outcome in outcomes if outcome.variant == variant]


def _cost(outcomes: Sequence[Outcome], variant: str) -> tuple[float, float]:
    """FLOPs and seconds of a variant's runs in the mean; zeros without one."""
    own = [outcome for outcome in outcomes if outcome.variant == variant]
    if not own:
        return 0.0, 0.0
    return statistics.fmean(o.flops for o in own), statistics.fmean(o.training_s for o in own)


def _ratio(value: float, base: float) -> float | None:
    return value / base if value and base else None


def _verdict(variant: str, difference: Interval | None) -> Verdict:
    if variant == BASE:
        return "base"
    if difference is None:
        return "no claim"
    if difference.holds_zero:
        return "noise"
    return "lower" if difference.high < 0 else "higher"
