"""What the stages between some cuts hold, on whatever block: parameters, memory, last gradients.

Arrays are over the cuts where stages begin (i) and end (j).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from motley.model.counts import ParameterGroup
from motley.plan.search.stage_memory_arrays import NeedsTable
from motley.plan.search.tables import StageTables
from motley.plan.timing.sync import BUCKET_BYTES, GRADIENT_BYTES

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]


class CutTable(NamedTuple):
    """Of all stages between some cuts."""

    needs: NeedsTable
    share: Floats
    """Of all parameters, those that each stage holds."""
    last: Singles
    """The part of an exchange of gradients that begins only when the last of them are complete."""
    is_stage: NDArray[np.bool_]
    """Where j is behind i."""

    @classmethod
    def of(cls, tables: StageTables, cuts: Sequence[int]) -> CutTable:
        """Of one model, for all tables that share a memo."""
        held = _held_parameters(tables.groups, cuts)
        last = _last_buckets(tables.groups, cuts)[:, None] / np.maximum(held, 1.0)
        return cls(
            needs=NeedsTable(tables, cuts),
            share=held / held[0, -1],
            last=np.minimum(last, 1.0).astype(np.float32),
            is_stage=np.triu(np.ones(held.shape, dtype=bool), 1),
        )


def _held_parameters(groups: Sequence[ParameterGroup], cuts: Sequence[int]) -> Floats:
    """Parameters of every stage; one that two of its layers share counts once."""
    held = np.zeros((len(cuts), len(cuts)))
    for group in groups:
        has = np.zeros(held.shape, dtype=bool)
        for place in np.searchsorted(cuts, group.layers, side="right") - 1:
            has[: place + 1, place + 1 :] = True
        held += has * group.num_parameters
    return held


def _last_buckets(groups: Sequence[ParameterGroup], cuts: Sequence[int]) -> Floats:
    """Parameters that a stage exchanges last, by the cut where it begins."""
    order = sorted(groups, key=lambda group: min(group.layers))
    last = np.zeros(len(cuts))
    for place, first in enumerate(cuts[:-1]):
        for group in order:
            if max(group.layers) < first:
                continue
            total = last[place] + group.num_parameters
            if last[place] and total * GRADIENT_BYTES > BUCKET_BYTES:
                break
            last[place] = total
    return last
