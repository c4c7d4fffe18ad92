"""What a step sends between sites, and what that costs.

Chips of a group are at one site. Between stages the activations go forth and their gradients back;
a ring all-reduce sends 2(n-1)/n of the gradients over each of its links, and enters every site
once. A direction that one holder of a matrix computed for all enters every other site once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from motley.cluster import Cluster
from motley.model.table_counts import touched_bytes
from motley.optim.matrices import orthogonal_matrices
from motley.optim.owners import FLOAT_BYTES, holders_of, share_out
from motley.plan.plan import Plan, Stage
from motley.plan.timing.cost import boundary_bytes
from motley.plan.timing.sync import GRADIENT_BYTES, gradient_buckets
from motley.recipe import Recipe

BYTES_PER_GB = 1e9


class Sent(NamedTuple):
    """Bytes of one step between two chips of unlike sites."""

    first: str
    second: str
    num_bytes: float


def usd_per_step(plan: Plan, recipe: Recipe, cluster: Cluster) -> tuple[float, tuple[str, ...]]:
    """What a step's traffic between sites costs, and the pairs of sites without a known price."""
    total, unknown = 0.0, dict[str, None]()
    for sent in between_sites(plan, recipe, cluster):
        price = cluster.usd_per_gb(sent.first, sent.second)
        if price is None:
            sites = sorted(cluster.chip(name).site for name in (sent.first, sent.second))
            unknown[" - ".join(sites)] = None
        else:
            total += price * sent.num_bytes / BYTES_PER_GB
    return total, tuple(unknown)


def between_sites(plan: Plan, recipe: Recipe, cluster: Cluster) -> Iterator[Sent]:
    """All that passes between sites in a step."""
    sites = {cluster.chip(name).site for name in plan.chips}
    if len(sites) < 2:
        return
    for replica in plan.replicas:
        for before, after in pairwise(replica.stages):
            if _site(cluster, before) != _site(cluster, after):
                num_bytes = 2 * boundary_bytes(
                    recipe.model,
                    recipe.batch.sequence_length,
                    replica.num_samples,
                    before.precision,
                    after.precision,
                    after.first_layer,
                )
                yield Sent(before.chip, after.chip, num_bytes)
    yield from _gradients(plan, recipe, cluster)
    if recipe.optimizer.orthogonalises:
        yield from _directions(plan, recipe, cluster)
    if recipe.model.tables is not None:
        yield from _rows(plan, recipe, cluster)


def _rows(plan: Plan, recipe: Recipe, cluster: Cluster) -> Iterator[Sent]:
    """Rows of memory tables that a replica touched go to every other one."""
    for sender in plan.replicas:
        tokens = sender.num_samples * recipe.batch.sequence_length
        for receiver in plan.replicas:
            here, there = sender.stages[0], receiver.stages[0]
            if _site(cluster, here) != _site(cluster, there):
                yield Sent(here.chip, there.chip, touched_bytes(recipe.model, tokens))


def _gradients(plan: Plan, recipe: Recipe, cluster: Cluster) -> Iterator[Sent]:
    stages = [placement.stage for placement in plan.placements()]
    for bucket in gradient_buckets(plan, recipe.model):
        first_at: dict[str, Stage] = {}
        for rank in bucket.ranks:
            first_at.setdefault(_site(cluster, stages[rank]), stages[rank])
        ring = list(first_at.values())
        if len(ring) < 2:
            continue
        count = len(bucket.ranks)
        num_bytes = 2 * (count - 1) / count * GRADIENT_BYTES * bucket.num_parameters
        for here, there in zip(ring, [*ring[1:], ring[0]], strict=True):
            yield Sent(here.chip, there.chip, num_bytes)


def _directions(plan: Plan, recipe: Recipe, cluster: Cluster) -> Iterator[Sent]:
    """What owners of matrices found goes to a holder at each other site, in the mean over steps."""
    stages = [placement.stage for placement in plan.placements()]
    ranges = [(stage.first_layer, stage.last_layer) for stage in stages]
    rates = [
        sum(cluster.chip(name).training_flops_per_s for name in stage.chips) for stage in stages
    ]
    matrices = orthogonal_matrices(recipe.model)
    owners = share_out(matrices, recipe.optimizer, ranges, rates)
    elements: Counter[tuple[str, str]] = Counter()
    for matrix in matrices:
        owner = stages[owners[matrix.name]]
        first_at: dict[str, str] = {}
        for rank in holders_of(matrix, ranges):
            first_at.setdefault(_site(cluster, stages[rank]), stages[rank].chip)
        del first_at[_site(cluster, owner)]
        for receiver in first_at.values():
            elements[owner.chip, receiver] += matrix.size
    for (here, there), count in elements.items():
        yield Sent(here, there, count * FLOAT_BYTES / recipe.optimizer.orthogonal_every)


def _site(cluster: Cluster, stage: Stage) -> str:
    return cluster.chip(stage.chip).site
