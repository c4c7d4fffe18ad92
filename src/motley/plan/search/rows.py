"""Long pipelines through whole kinds of chips, for models that need the memory of very many.

The search puts many chips into few units, so its pipelines have few stages. A model that none of
these holds may still fit into one with a stage for each chip, or for every second, and so on. Here
such rows are laid out by a rule: the roomiest kinds first, layers in proportion to memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from motley.cluster import Cluster
from motley.plan.search.blocks import Names
from motley.plan.search.choices import ReplicaChoice, Split, StageChoice
from motley.plan.search.groupings import Kind
from motley.plan.search.unions import shares_of


class Row(NamedTuple):
    """One pipeline of equally wide stages."""

    split: Split
    groups: tuple[Names, ...]


def rows(
    cluster: Cluster, kinds: Sequence[Kind], num_layers: int, global_batch: int
) -> Iterator[Row]:
    """Pipelines over the roomiest kind, the two roomiest and so on, the widest first."""
    order = sorted(kinds, key=lambda kind: -_memory_bytes(cluster, kind.nodes[0]))
    for count in range(1, len(order) + 1):
        chosen = [[name for node in kind.nodes for name in node] for kind in order[:count]]
        width = 1 << (min(map(len, chosen)).bit_length() - 1)
        while width:
            groups = [
                tuple(names[first : first + width])
                for names in chosen
                for first in range(0, len(names) - width + 1, width)
            ][:num_layers]
            if len(groups) > 1 and width <= global_batch:
                yield Row((_replica(cluster, groups, num_layers, global_batch),), tuple(groups))
            width //= 2


def _replica(
    cluster: Cluster, groups: Sequence[Names], num_layers: int, global_batch: int
) -> ReplicaChoice:
    """One layer for each stage and the others by memory; a sample for each chip at once."""
    memory = [float(_memory_bytes(cluster, names)) for names in groups]
    stages, first = [], 0
    for block, more in enumerate(shares_of(num_layers - len(groups), memory)):
        stages.append(StageChoice(block, first, first + 1 + more))
        first = stages[-1].last_layer
    return ReplicaChoice(tuple(stages), len(groups[0]), global_batch)


def _memory_bytes(cluster: Cluster, names: Names) -> int:
    """Of each chip of a group of alike ones."""
    return cluster.chip(names[0]).memory_bytes
