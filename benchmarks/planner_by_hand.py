"""Plans that are made without a search, as a check on it: every kind of chips by itself, all its
replicas alike. One such scan over the degrees is what users of the big frameworks do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from motley.cluster import Cluster
from motley.plan.search.blocks import Names
from motley.plan.search.build import even_shares
from motley.plan.search.choices import ReplicaChoice, Split, StageChoice
from motley.plan.search.evaluate import Evaluator
from motley.plan.search.groupings import Kind, kinds_of
from motley.plan.search.memo import Memo
from motley.plan.simulate import cluster_evaluator
from motley.plan.space import Space
from motley.recipe import Recipe

MOST_REPLICAS = 64
"""Of one kind."""

SIZES = (1, 2, 4, 8, 16)
"""Samples of a micro-batch on each member of a stage."""


class ByHand(NamedTuple):
    """The best of the plans."""

    tokens_per_s: float
    label: str


def best_by_hand(recipe: Recipe, cluster: Cluster, space: Space) -> ByHand | None:
    """Of one kind at a time: equal pipelines of equal stages with equal shares; None if none fits.

    In a space of groups each stage is a part of a node, a node or some nodes, laid out as is best.
    """
    best: ByHand | None = None
    memo = Memo()
    for kind in kinds_of(cluster):
        for label, groups, num_stages in _cuts(kind, space):
            evaluator = cluster_evaluator(recipe, cluster, groups, space=space, memo=memo)
            num_replicas = len(groups) // num_stages
            if num_replicas > min(MOST_REPLICAS, recipe.batch.global_batch):
                continue
            for size in SIZES:
                split = _split(evaluator, num_stages, num_replicas, size * len(groups[0]))
                seconds = evaluator.step_seconds(split)
                if seconds is not None:
                    tokens_per_s = recipe.tokens_per_step / seconds
                    if best is None or tokens_per_s > best.tokens_per_s:
                        best = ByHand(tokens_per_s, label)
    return best


def _cuts(kind: Kind, space: Space) -> Iterator[tuple[str, tuple[Names, ...], int]]:
    """Groups of the kind's chips, and the number of stages of each pipeline over them."""
    names = [name for node in kind.nodes for name in node]
    widths = [1 << power for power in range(len(names).bit_length())] if space.groups else [1]
    for width in widths:
        if len(names) % width:
            continue
        groups = tuple(tuple(names[first : first + width]) for first in range(0, len(names), width))
        for power in range(5):
            if 1 << power <= len(groups) and len(groups) % (1 << power) == 0:
                yield f"{len(names)} chips, {width} x {1 << power} stages", groups, 1 << power


def _split(evaluator: Evaluator, num_stages: int, num_replicas: int, size: int) -> Split:
    """Equal replicas of equal stages."""
    lengths = even_shares(evaluator.num_layers, num_stages)
    bounds = [sum(lengths[:place]) for place in range(num_stages + 1)]
    shares = even_shares(evaluator.global_batch, num_replicas)
    return tuple(
        ReplicaChoice(
            tuple(
                StageChoice(index * num_stages + place, bounds[place], bounds[place + 1])
                for place in range(num_stages)
            ),
            min(size, share),
            share,
        )
        for index, share in enumerate(shares)
    )
