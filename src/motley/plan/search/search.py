"""Finds the best plan that fits every chip's memory; the same one every time.

Few chips are searched one by one (`splits`): the best pipelines of every set of chips, the
partitions of the chips into replicas with their shares of the batch, and small changes with the
whole step simulated. Many chips are put into units first (`groupings`). Each kind is searched
alone; the kinds' best splits together are one candidate (`unions`), and pipelines over units of
several kinds are the others.
"""

from __future__ import annotations

from motley.cluster import Cluster
from motley.errors import ClusterError, MotleyError, NoPlanError
from motley.plan.explain.reasons import explain_choice
from motley.plan.explain.rejected import explain_rejected
from motley.plan.objective import FASTEST, Objective
from motley.plan.plan import Plan
from motley.plan.search.build import Built
from motley.plan.search.candidates import Candidates
from motley.plan.search.lacking import no_plan
from motley.plan.space import TRAINABLE, Space
from motley.plan.stack import MOTLEY, Stack
from motley.plan.traffic import usd_per_step
from motley.recipe import Recipe
from motley.units import duration

KEPT_ALTERNATIVES = 3

MOST_PRICED = 12
"""Candidates whose traffic is priced."""


def search(
    recipe: Recipe,
    cluster: Cluster,
    *,
    objective: Objective = FASTEST,
    space: Space = TRAINABLE,
    stack: Stack = MOTLEY,
) -> Plan:
    """The best plan that fits, for the objective.

    Raises:
        NoPlanError: the model fits on no split of the chips; names what is lacking where. With the
            goal "deadline": none ends in time.
        RecipeError: the recipe's vocabulary is not known yet.
        ClusterError: the objective needs prices that are unknown.
    """
    return explained(Candidates(recipe, cluster, objective, space, stack))


def explained(candidates: Candidates) -> Plan:
    """The best of the candidates with its reasons and with what lost."""
    recipe, cluster = candidates.recipe, candidates.cluster
    plans = best_plans(candidates)
    if not plans:
        raise nothing_found(candidates)
    rejected = explain_rejected(
        plans[0],
        plans[1 : 1 + KEPT_ALTERNATIVES],
        recipe,
        cluster,
        candidates.stack,
        candidates.memo,
    )
    return explain_choice(plans[0]._replace(plan=rejected), recipe, cluster, candidates.stack)


def bare_plan(
    recipe: Recipe,
    cluster: Cluster,
    *,
    objective: Objective = FASTEST,
    space: Space,
    stack: Stack,
) -> Plan:
    """What `search` finds, without reasons and what lost; raises as it does."""
    candidates = Candidates(recipe, cluster, objective, space, stack)
    plans = best_plans(candidates)
    if not plans:
        raise nothing_found(candidates)
    return plans[0].plan


def best_plans(candidates: Candidates) -> list[Built]:
    """The plans of the best candidates, best first, without reasons; empty if none will do.

    What is sent between sites is part of the cost, and known of whole plans only.
    """
    objective = candidates.objective
    pays = objective.needs_prices and len(candidates.cluster.sites) > 1
    best = candidates.best()[: MOST_PRICED if pays else 1 + KEPT_ALTERNATIVES]
    plans = [candidates.built(each) for each in best]
    if not pays:
        return plans
    return sorted(
        (each for each in plans if _score(each.plan, objective) < float("inf")),
        key=lambda each: _score(each.plan, objective),
    )


def _score(plan: Plan, objective: Objective) -> float:
    if plan.usd_per_hour is None:
        return float("inf")
    return objective.score(plan.step_s, plan.usd_per_hour)


def nothing_found(candidates: Candidates) -> MotleyError:
    """Why no candidate will do: the model fits nowhere, or no plan ends in time."""
    recipe, cluster, objective = candidates.recipe, candidates.cluster, candidates.objective
    fastest = [] if objective == FASTEST else best_plans(candidates.with_objective(FASTEST))
    if not fastest:
        return no_plan(recipe, cluster, candidates.space, candidates.stack)
    plan = fastest[0].plan
    if plan.usd_per_hour is None:
        sent = usd_per_step(plan, recipe, cluster)[1]
        return ClusterError(
            f"the goal '{objective.goal}' needs the price of what is sent between sites, and that "
            f"of {', '.join(sent)} is unknown.",
            remedy="Give usd_per_gb, or unmetered = true, in that link's table of cluster.toml.",
        )
    return NoPlanError(
        f"no plan ends in time: a step may take {duration(objective.longest_step_s)}, and the "
        f"fastest plan found takes {duration(plan.step_s)} and costs {plan.usd_per_hour:.4g} USD "
        f"per hour, {plan.usd_per_billion_tokens:.4g} USD per billion tokens.",
        remedy="Give it more time, add chips, or plan for the goal 'time'.",
    )
