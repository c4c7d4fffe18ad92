"""When the gradient reductions of a step end, by the clocks of the chips.

Over emulated links the real reduction is faster than the declared one. All ranks know from the
exchange when each bucket was ready where; from that each works out, with the planner's own rule,
when the last one would have ended, and waits until then. Real links have taken their time already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from motley.cluster import Cluster
from motley.plan.plan import Plan
from motley.plan.timing.sync import Bucket, all_reduce_seconds, rows_exchange_seconds
from motley.recipe import Recipe
from motley.train.exchange import RankReport


class ReductionClock:
    """The reductions of one plan; `barrier` gives the moment at which a step is over."""

    def __init__(
        self, plan: Plan, recipe: Recipe, cluster: Cluster, buckets: tuple[Bucket, ...]
    ) -> None:
        self._buckets = buckets
        self._rows_s = _rows_seconds(plan, recipe, cluster)
        chips = [place.stage.chip for place in plan.placements()]
        self._seconds = [_declared_seconds(bucket, chips, cluster) for bucket in buckets]

    def barrier(self, reports: Sequence[RankReport], ready: Sequence[Mapping[int, float]]) -> float:
        """The moment at which all chips are done and all buckets are reduced.

        Each rank has one channel and takes its buckets in the common order; a bucket begins when
        it is ready on all its ranks and their channels are free.
        """
        free = [0.0] * len(reports)
        latest = max(report.clock for report in reports)
        for index, (bucket, seconds) in enumerate(zip(self._buckets, self._seconds, strict=True)):
            begin = max(max(ready[rank][index], free[rank]) for rank in bucket.ranks)
            for rank in bucket.ranks:
                free[rank] = begin + seconds
            latest = max(latest, begin + seconds)
        return latest + self._rows_s


def _rows_seconds(plan: Plan, recipe: Recipe, cluster: Cluster) -> float:
    """What emulated links make the exchange of the memory tables' rows take, after the buckets."""
    chips = [replica.stages[0].chip for replica in plan.replicas]
    links = [cluster.link(first, second) for first, second in combinations(chips, 2)]
    if not any(link.emulated for link in links):
        return 0.0
    tokens = [replica.num_samples * recipe.batch.sequence_length for replica in plan.replicas]
    slowest = min(links, key=lambda link: link.bandwidth_bytes_per_s)
    return rows_exchange_seconds(recipe.model, tokens, slowest)


def _declared_seconds(bucket: Bucket, chips: Sequence[str], cluster: Cluster) -> float:
    """What the emulated links make the reduction take; 0 if all its links are real."""
    holders = [chips[rank] for rank in bucket.ranks]
    emulated = any(
        cluster.link(first, second).emulated
        for first in holders
        for second in holders
        if first != second
    )
    if not emulated:
        return 0.0
    return all_reduce_seconds(
        bucket.num_parameters,
        bucket.ranks,
        lambda first, second: cluster.link(chips[first], chips[second]),
    )
