"""Memory of all stages at once: arrays over the kinds of stages between some cuts (r).

Stages that hold as many layers of each kind are of one kind. What a stage needs is linear in the
micro-batches that it keeps, up to one maximum, and linear in the layers of one kind, but for what
Muon's step takes. So a few stages are asked for, and the others lie between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from motley.plan.layout import Layout
from motley.plan.search.choices import StageChoice
from motley.plan.search.tables import StageTables

Floats = NDArray[np.float64]

FEW = 6
"""Stages of one pattern up to which each is asked for."""


class Needs(NamedTuple):
    """Bytes on each chip of a stage (r)."""

    always: Floats
    """State, buffers and context."""
    kept: Floats
    """Of each micro-batch in flight."""
    moment: Floats
    """Only for a moment of a pass, beside the activations."""
    after: Floats
    """Only behind the last pass, when the activations are gone."""

    def total(self, num_in_flight: Floats) -> Floats:
        """For some numbers of micro-batches in flight (k): an array (k, r)."""
        kept = num_in_flight[:, None] * self.kept
        return self.always + kept + np.maximum(self.moment, self.after - kept)


class NeedsTable:
    """The needs of all stages between some cuts, for all tables that share a memo."""

    def __init__(self, tables: StageTables, cuts: Sequence[int]) -> None:
        self._ranges: list[tuple[int, int]] = []
        self.kinds = np.zeros((len(cuts), len(cuts)), dtype=np.intp)
        """Of the stage between two cuts (i, j); wrong where j is not behind i."""
        known: dict[object, int] = {}
        typical: list[tuple[int, int]] = []
        for i, first in enumerate(cuts):
            for j in range(i + 1, len(cuts)):
                kind = known.setdefault(tables.held(first, cuts[j]), len(known))
                if kind == len(typical):
                    typical.append((i, j))
                    self._ranges.append((first, cuts[j]))
                self.kinds[i, j] = kind
        self.typical = tuple(np.array(typical, dtype=np.intp).T)
        """The cuts (i, j) of one stage of each kind."""
        self._is_whole = np.array([each == (0, tables.num_layers) for each in self._ranges])
        self._lines = _lines([tables.held(*each) for each in self._ranges])
        self._known: dict[tuple[object, int, Layout], Needs] = {}
        """Without the context, which depends on the link between a block's chips."""

    def of(self, tables: StageTables, block: int, size: int, layout: Layout) -> Needs:
        """In one layout, with micro-batches of `size` samples."""
        key = (tables.blocks[block].chip.precision, size, layout)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._work_out(tables, block, size, layout)
        alone, piped = (tables.context_bytes(block, layout, each) for each in (False, True))
        return found._replace(always=found.always + np.where(self._is_whole, alone, piped))

    def _work_out(self, tables: StageTables, block: int, size: int, layout: Layout) -> Needs:
        parts = np.zeros((4, len(self._ranges)))
        is_bent = tables.recipe.optimizer.orthogonalises
        for line in self._lines:
            asked = line if len(line) <= FEW or is_bent else [line[0], line[-1]]
            stages = [StageChoice(block, *self._ranges[place]) for place in asked]
            values = [_asked(tables, stage, size, layout) for stage in stages]
            lengths = [self._length(place) for place in line]
            at = [self._length(place) for place in asked]
            for part, column in enumerate(zip(*values, strict=True)):
                parts[part, line] = np.interp(lengths, at, column)
        return Needs(*parts)

    def _length(self, place: int) -> int:
        first, last = self._ranges[place]
        return last - first


def _asked(
    tables: StageTables, stage: StageChoice, size: int, layout: Layout
) -> tuple[float, float, float, float]:
    needs, samples = tables.needs(stage, layout), layout.member_samples(size)
    share = 1 + needs.margin
    buffers = samples * needs.edge_bytes + needs.buffer_bytes
    return (
        share * (needs.held_bytes(samples) + buffers),
        share * samples * needs.kept_bytes,
        share * needs.moment_bytes(samples),
        share * needs.after_bytes(samples),
    )


def _lines(held: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Stages that differ only in how many they hold of the most frequent kind of layer, by their
    places, in the order of that number."""
    most = max(range(len(held[0])), key=lambda kind: max(each[kind] for each in held))
    lines: dict[tuple[object, ...], list[int]] = {}
    for place, each in enumerate(held):
        pattern = (*each[:most], *each[most + 1 :], each[most] > 0)
        lines.setdefault(pattern, []).append(place)
    return [sorted(line, key=lambda place: held[place][most]) for line in lines.values()]
