"""What one more chip of each kind of a cluster would bring, in the unit of the plan's goal."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from motley.chips.chip import Chip
from motley.cluster import Cluster
from motley.plan.objective import FASTEST, Objective
from motley.plan.plan import Plan
from motley.plan.search.blocks import rates
from motley.plan.search.search import bare_plan
from motley.plan.space import ANY, Space
from motley.plan.stack import MOTLEY, Stack
from motley.recipe import Recipe
from motley.units import percent, si

TOKENS_PER_S = "tokens/s"
USD_PER_BILLION_TOKENS = "USD per billion tokens"

FEW_CHIPS = 16
"""Among more chips a single one hardly shows, and a search for each kind takes long."""


LEAST_GAIN = 5e-4
"""A share below this reads as nothing."""


@dataclass(frozen=True, kw_only=True)
class OneMore:
    """The best plan of the cluster with one more chip of a kind. Figures are predicted."""

    kind: str
    unit: str
    """Of what the goal makes better: "tokens/s", or "USD per billion tokens"."""
    reached: float
    """In that unit."""
    gain: float
    """Share by which tokens/s grow or the cost falls; 0 where the chip would stay idle."""

    @property
    def change(self) -> str:
        """ "+12 %" of tokens/s, "-3 %" of the cost, or "nothing"."""
        if self.gain < LEAST_GAIN:
            return "nothing"
        return f"{'+' if self.unit == TOKENS_PER_S else '-'}{percent(self.gain)}"

    @property
    def reached_words(self) -> str:
        """ "4.5k tokens/s"."""
        number = si(self.reached) if self.unit == TOKENS_PER_S else f"{self.reached:.4g}"
        return f"{number} {self.unit}"


def one_more(
    recipe: Recipe,
    cluster: Cluster,
    plan: Plan,
    *,
    objective: Objective = FASTEST,
    space: Space = ANY,
    stack: Stack = MOTLEY,
) -> tuple[OneMore, ...]:
    """For each kind of chip, what another one beside the last of the kind would bring to `plan`,
    the best one of the cluster for the objective; the most useful first. Empty for large
    clusters."""
    if len(cluster.chips) > FEW_CHIPS:
        return ()
    last = {rates(chip): chip for chip in cluster.chips}
    found = []
    for chip in last.values():
        larger = dataclasses.replace(cluster, chips=(*cluster.chips, _another(chip, cluster)))
        other = bare_plan(recipe, larger, objective=objective, space=space, stack=stack)
        found.append(_compared(chip.kind, plan, other, objective))
    return tuple(sorted(found, key=lambda each: (-each.gain, each.kind)))


def _compared(kind: str, plan: Plan, other: Plan, objective: Objective) -> OneMore:
    """The other plan is no worse: in it the chip may stay idle."""
    if objective.needs_prices:
        before, after = plan.usd_per_billion_tokens, other.usd_per_billion_tokens
        assert before is not None
        assert after is not None
        reached = min(after, before)
        gain = 1 - reached / before
        return OneMore(kind=kind, unit=USD_PER_BILLION_TOKENS, reached=reached, gain=gain)
    reached = max(other.tokens_per_s, plan.tokens_per_s)
    return OneMore(
        kind=kind, unit=TOKENS_PER_S, reached=reached, gain=reached / plan.tokens_per_s - 1
    )


def _another(chip: Chip, cluster: Cluster) -> Chip:
    """A chip like this one, on the same node, under a name that is free."""
    names = {each.name for each in cluster.chips}
    number = 2
    while f"{chip.name}-{number}" in names:
        number += 1
    return dataclasses.replace(chip, name=f"{chip.name}-{number}")
