"""What one more chip of each kind of a cluster would bring."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from motley.chips.chip import Chip
from motley.cluster import Cluster
from motley.plan.plan import Plan
from motley.plan.search.blocks import rates
from motley.plan.search.search import fastest
from motley.plan.space import ANY, Space
from motley.plan.stack import MOTLEY, Stack
from motley.recipe import Recipe

FEW_CHIPS = 16
"""Among more chips a single one hardly shows, and a search for each kind takes long."""


@dataclass(frozen=True, kw_only=True)
class OneMore:
    """The cluster with one more chip of a kind. Figures are predicted."""

    kind: str
    tokens_per_s: float
    gain: float
    """Share by which tokens/s grow; 0 where the chip would stay idle."""


def one_more(
    recipe: Recipe,
    cluster: Cluster,
    plan: Plan,
    *,
    space: Space = ANY,
    stack: Stack = MOTLEY,
) -> tuple[OneMore, ...]:
    """For each kind of chip, what another one beside the last of the kind would bring; the most
    useful first. Empty for large clusters."""
    if len(cluster.chips) > FEW_CHIPS:
        return ()
    last = {rates(chip): chip for chip in cluster.chips}
    found = []
    for chip in last.values():
        larger = dataclasses.replace(cluster, chips=(*cluster.chips, _another(chip, cluster)))
        reached = max(fastest(recipe, larger, space, stack).tokens_per_s, plan.tokens_per_s)
        gain = reached / plan.tokens_per_s - 1
        found.append(OneMore(kind=chip.kind, tokens_per_s=reached, gain=gain))
    return tuple(sorted(found, key=lambda each: (-each.gain, each.kind)))


def _another(chip: Chip, cluster: Cluster) -> Chip:
    """A chip like this one, on the same node, under a name that is free."""
    names = {each.name for each in cluster.chips}
    number = 2
    while f"{chip.name}-{number}" in names:
        number += 1
    return dataclasses.replace(chip, name=f"{chip.name}-{number}")
