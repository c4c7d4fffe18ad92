"""The optimizer of one rank: its rules over what the rank holds, and who shares its matrices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch.distributed as dist

from motley.chips.emulated import EmulatedEdge
from motley.chips.runtime import TORCH_DTYPES, Runtime
from motley.cluster import Cluster
from motley.optim.matrices import orthogonal_matrices
from motley.optim.optimizer import Optimizer, build_optimizer
from motley.optim.owners import holders_of, share_out
from motley.optim.products import products_precision
from motley.plan.plan import Plan
from motley.plan.timing.sync import BUCKET_BYTES
from motley.recipe import Recipe
from motley.train.directions import Channel, Directions
from motley.train.parameters import StageParameters

Groups = Mapping[tuple[int, ...], tuple[dist.ProcessGroup, bool]]
"""Ranks to their process group, and whether device tensors go through it."""


def build_update(
    recipe: Recipe,
    cluster: Cluster,
    plan: Plan,
    rank: int,
    runtime: Runtime,
    parameters: StageParameters,
    groups: Groups,
) -> Optimizer:
    """The recipe's optimizer over the parameters of one rank.

    A matrix that several ranks hold is orthogonalised by one of them. `groups` has those of all
    ranks that hold the same parameters.
    """
    owners, shared = _owners(recipe, cluster, plan)
    names: dict[tuple[tuple[int, ...], int], list[str]] = defaultdict(list)
    for name, holders in shared.items():
        if rank in holders:
            names[holders, owners[name]].append(name)
    chips = [place.stage.chip for place in plan.placements()]
    parts = []
    for (holders, owner), theirs in sorted(names.items()):
        group, direct = groups[holders]
        emulated = _emulated(cluster, [chips[holder] for holder in holders], chips[owner])
        channel = Channel(owner, group, direct, emulated)
        parts.append((channel, [parameters.gradients[name] for name in theirs]))
    held = [name for theirs in names.values() for name in theirs]
    return build_optimizer(
        parameters.masters,
        recipe.optimizer,
        TORCH_DTYPES[products_precision(runtime.chip.precision)],
        table_rate=recipe.table_rate,
        owned=frozenset(name for name in held if owners[name] == rank),
        foreign=frozenset(name for name in held if owners[name] != rank),
        exchange=Directions(runtime, rank, parts).exchange,
        spend=runtime.spend,
    )


def _owners(
    recipe: Recipe, cluster: Cluster, plan: Plan
) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """The owner of every matrix under Muon, and the holders of those that have several."""
    if not recipe.optimizer.orthogonalises:
        return {}, {}
    stages = [place.stage for place in plan.placements()]
    ranges = [(stage.first_layer, stage.last_layer) for stage in stages]
    rates = [cluster.chip(stage.chip).training_flops_per_s for stage in stages]
    matrices = orthogonal_matrices(recipe.model)
    holders = {matrix.name: tuple(holders_of(matrix, ranges)) for matrix in matrices}
    owners = share_out(matrices, recipe.optimizer, ranges, rates)
    return owners, {name: ranks for name, ranks in holders.items() if len(ranks) > 1}


def _emulated(cluster: Cluster, holders: Sequence[str], owner: str) -> EmulatedEdge | None:
    """The slowest emulated link from the owner to the other holders; None if all are real."""
    links = [cluster.link(owner, other) for other in holders if other != owner]
    emulated = [link for link in links if link.emulated]
    if not emulated:
        return None
    return EmulatedEdge(max(emulated, key=lambda link: link.seconds(BUCKET_BYTES)))
