"""The simulated step as rows of spans: one row for each group of chips, alike rows once.

A row has the spans of all (virtual) stages that its chips hold, and its own waiting: time in which
none of them computes. Exchanges of gradients run beside the passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from motley.plan.plan import Plan
from motley.plan.simulate import Simulation, Span, SpanKind

SAME = 1e-6
"""Rows whose spans differ by less than this share of the step are drawn once."""
CLOSE = 1e-3
"""Exchanges with gaps below this share of the step are drawn as one."""


class Drawn(NamedTuple):
    """One span of a row; `turn` is the place of its stage among those of the same chips."""

    kind: SpanKind
    micro_batch: int | None
    turn: int
    start_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one group of chips does in the step, and every other that does just the same."""

    replicas: tuple[int, ...]
    """Where it is found."""
    chips: tuple[str, ...]
    """Of the first."""
    layers: tuple[tuple[int, int], ...]
    """[first, last) of its stages, by their turns."""
    spans: tuple[Drawn, ...]
    """Passes, optimizer and waiting, one after the other."""
    exchanges: tuple[tuple[float, float], ...]

    def share(self, *kinds: SpanKind) -> float:
        """Share of the row's time that these kinds take."""
        whole = self.spans[-1].end_s if self.spans else 0.0
        taken = sum(span.end_s - span.start_s for span in self.spans if span.kind in kinds)
        return taken / whole if whole else 0.0


def rows_of(plan: Plan, simulation: Simulation) -> tuple[Row, ...]:
    """All rows in the plan's order; rows with the same kind of spans at the same times are one."""
    by_rank: dict[int, list[Span]] = {}
    for span in simulation.spans:
        if span.kind != "wait":
            by_rank.setdefault(span.rank, []).append(span)
    found: dict[object, Row] = {}
    for replica, chips, ranks, layers in _groups(plan):
        row = _row(replica, chips, layers, [by_rank[rank] for rank in ranks], simulation.step_s)
        key = _likeness(row, simulation.step_s)
        known = found.setdefault(key, row)
        if known is not row:
            found[key] = _with_replica(known, replica)
    return tuple(found.values())


def _groups(
    plan: Plan,
) -> Iterable[tuple[int, tuple[str, ...], list[int], tuple[tuple[int, int], ...]]]:
    """(replica, chips, ranks, layers) of every group of chips."""
    held: dict[tuple[int, tuple[str, ...]], list[tuple[int, tuple[int, int]]]] = {}
    for place in plan.placements():
        bounds = (place.stage.first_layer, place.stage.last_layer)
        key = (place.replica_index, place.stage.chips)
        held.setdefault(key, []).append((place.rank, bounds))
    for (replica, chips), stages in held.items():
        ranks = [rank for rank, _ in stages]
        yield replica, chips, ranks, tuple(bounds for _, bounds in stages)


def _row(
    replica: int,
    chips: tuple[str, ...],
    layers: tuple[tuple[int, int], ...],
    stages: Sequence[Sequence[Span]],
    step_s: float,
) -> Row:
    busy = sorted(
        (
            Drawn(span.kind, span.micro_batch, turn, span.start_s, span.end_s)
            for turn, spans in enumerate(stages)
            for span in spans
            if span.kind != "sync" and span.end_s > span.start_s
        ),
        key=lambda drawn: (drawn.start_s, drawn.end_s),
    )
    exchanges = sorted(
        (span.start_s, span.end_s) for spans in stages for span in spans if span.kind == "sync"
    )
    return Row(
        replicas=(replica,),
        chips=chips,
        layers=layers,
        spans=tuple(_with_waits(busy, step_s)),
        exchanges=tuple(_merged(exchanges, CLOSE * step_s)),
    )


def _with_waits(busy: Iterable[Drawn], step_s: float) -> Iterable[Drawn]:
    reached = 0.0
    for drawn in busy:
        if drawn.start_s > reached:
            yield Drawn("wait", None, 0, reached, drawn.start_s)
        yield drawn
        reached = max(reached, drawn.end_s)
    if step_s > reached:
        yield Drawn("wait", None, 0, reached, step_s)


def _merged(spans: Iterable[tuple[float, float]], gap_s: float) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for start, end in spans:
        if merged and start - merged[-1][1] <= gap_s:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _likeness(row: Row, step_s: float) -> object:
    unit = SAME * step_s or 1.0
    spans = tuple(
        (span.kind, span.micro_batch, round(span.start_s / unit), round(span.end_s / unit))
        for span in row.spans
    )
    exchanges = tuple((round(start / unit), round(end / unit)) for start, end in row.exchanges)
    return len(row.chips), row.layers, spans, exchanges


def _with_replica(row: Row, replica: int) -> Row:
    return Row(
        replicas=(*row.replicas, replica),
        chips=row.chips,
        layers=row.layers,
        spans=row.spans,
        exchanges=row.exchanges,
    )
