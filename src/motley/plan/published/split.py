"""A published case in the terms of the evaluator: blocks of chips, their links, and a split.

Members of one stage that are alike are one block, which shares the batch as a group. Where unlike
chips hold a stage each member is a replica of its own, so that the slow ones hold up only whom they
really hold up, unless they share parameters with the others layer by layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from motley.chips.chip import Link
from motley.cluster import LOOPBACK, Spread
from motley.plan.layout import Layout
from motley.plan.published.case import Case
from motley.plan.search.choices import Block, ReplicaChoice, StageChoice
from motley.plan.search.evaluate import Evaluator
from motley.plan.timing.collectives import reached_share, slowest_of
from motley.plan.timing.cost import LayerTime
from motley.plan.timing.schedule import Schedule
from motley.recipe import BatchConfig, Recipe


class Place(NamedTuple):
    """The chips of one block, by their ranks."""

    stage: int
    first: int
    num_chips: int


class CaseEvaluator(Evaluator):
    """An evaluator of chips that may share out each sequence, too: passes take its part of the
    time, and messages among those chips are not counted."""

    def __init__(self, case: Case, places: Sequence[Place], layout: Layout) -> None:
        self._context = case.context
        recipe = Recipe(
            model=case.config,
            batch=BatchConfig(
                sequence_length=case.sequence_length,
                global_batch=max(1, round(case.tokens_per_step / case.sequence_length)),
            ),
        )
        blocks = [_block(case, place, layout) for place in places]
        super().__init__(recipe, blocks, CaseLinks(case, places), stack=case.stack)

    def _layer_times(self, block: int, num_samples: int, layout: Layout) -> list[LayerTime]:
        times = super()._layer_times(block, num_samples, layout)
        return [LayerTime(*(seconds / self._context for seconds in time)) for time in times]


class CaseLinks:
    """The links between the blocks of a case, all of which send at once."""

    def __init__(self, case: Case, places: Sequence[Place]) -> None:
        self._case = case
        self._places = places

    def link(self, first: int, second: int) -> Link:
        """Between two blocks: all their chips inside a node; a part of every node's network, which
        the blocks of a stage on that node share while they send to the next."""
        here, there = self._places[first], self._places[second]
        case, chips = self._case, min(here.num_chips, there.num_chips)
        if here.first // case.per_node == there.first // case.per_node:
            local = case.local[_slowest_kind(case, here)]
            return replace(local, bandwidth_bytes_per_s=chips * local.bandwidth_bytes_per_s)
        nodes = max(1.0, chips / case.per_node)
        beside = self._beside(here) if here.stage != there.stage else 1
        rate = nodes / beside * case.network.bandwidth_bytes_per_s
        return replace(case.network, bandwidth_bytes_per_s=rate)

    def _beside(self, place: Place) -> int:
        """Blocks of one stage on one node."""
        alike = sum(each.stage == place.stage for each in self._places)
        return max(1, min(alike, self._case.per_node // place.num_chips))

    def slowest(self, blocks: Sequence[int]) -> Link:
        """As bad as the worst path between neighbours in the ring through the blocks."""
        ring = sorted(set(blocks))
        pairs = [pair for pair in [*pairwise(ring), (ring[-1], ring[0])] if pair[0] != pair[1]]
        slowest = slowest_of([self.link(*pair) for pair in pairs] or [LOOPBACK])
        if len({self._places[block].stage for block in ring}) > 1:
            return self._in_pairs(slowest, self._places[ring[0]])
        return slowest

    def _in_pairs(self, link: Link, place: Place) -> Link:
        """A link over which the chips of two stages exchange the gradient of a tied head.

        Many pairs of chips do so at once, and each fills the gaps that the others leave on the
        network: together they reach more of it than the ring of a collective does.
        """
        if link.kind != self._case.network.kind:
            return link
        pairs = place.num_chips * self._beside(place)
        share = reached_share(link, self._case.stack.constants, between_nodes=True)
        reached = 1.0 - (1.0 - share) ** min(self._case.per_node, pairs)
        return replace(link, bandwidth_bytes_per_s=link.bandwidth_bytes_per_s * reached / share)


class CaseSplit(NamedTuple):
    """A case as the evaluator takes it."""

    evaluator: Evaluator
    split: tuple[ReplicaChoice, ...]
    layouts: tuple[tuple[Layout, ...], ...]
    """Of the stages of every replica."""


def split_of_case(case: Case) -> CaseSplit:
    """Blocks, links and replicas of a case."""
    layout, copies = _replicas(case)
    width = layout.num_chips * case.context
    per_stage = width * copies
    places = [
        Place(stage, stage * per_stage + copy * width, width)
        for copy in range(copies)
        for stage in range(case.num_stages)
    ]
    samples = case.micro_batch * layout.data
    devices, bounds, schedule = pipeline_of_case(case)
    split = tuple(
        ReplicaChoice(
            tuple(
                StageChoice(copy * case.num_stages + device, *layers)
                for device, layers in zip(devices, bounds, strict=True)
            ),
            samples,
            samples * case.num_micro_batches,
            schedule,
            devices if case.virtual > 1 else (),
        )
        for copy in range(copies)
    )
    layouts = ((layout,) * len(devices),) * copies
    return CaseSplit(CaseEvaluator(case, places, layout), split, layouts)


def _replicas(case: Case) -> tuple[Layout, int]:
    """How a replica's groups are laid out, and how many replicas there are."""
    layout, copies = case.layout, case.num_replicas
    if layout.sharding != "none":
        return layout, copies
    if any(len(set(kinds)) > 1 for kinds in kinds_by_stage(case)):
        return layout._replace(data=1), layout.data * copies
    return layout._replace(data=layout.data * copies), 1


def kinds_by_stage(case: Case) -> Iterator[tuple[int, ...]]:
    """The kinds of chip of every group of the pipeline, rank by rank."""
    kinds = _kinds_by_rank(case.counts)
    per_stage = len(kinds) // case.num_stages
    for stage in range(case.num_stages):
        yield kinds[stage * per_stage : (stage + 1) * per_stage]


@lru_cache(maxsize=8)
def _kinds_by_rank(counts: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(kind for kind, count in enumerate(counts) for _ in range(count))


def _slowest_kind(case: Case, place: Place) -> int:
    """The kind of chip that sets the pace of a block."""
    if len(case.chips) == 1:
        return 0
    kinds = set(_kinds_by_rank(case.counts)[place.first : place.first + place.num_chips])
    return min(kinds, key=lambda kind: case.chips[kind].training_flops_per_s)


def _block(case: Case, place: Place, layout: Layout) -> Block:
    kind, size = _slowest_kind(case, place), layout.num_chips
    spread = Spread(size, min(case.per_node, size), case.local[kind], case.network)
    return Block(case.chips[kind], spread)


class CasePipeline(NamedTuple):
    """The stages of a case in the order of the pipeline, virtual ones one by one."""

    devices: tuple[int, ...]
    """The group of chips that holds each."""
    bounds: tuple[tuple[int, int], ...]
    schedule: Schedule


def pipeline_of_case(case: Case) -> CasePipeline:
    """Of interleaved ones each group holds several."""
    devices = tuple(range(case.num_stages)) * case.virtual
    bounds = stage_bounds(replace(case, num_stages=len(devices), virtual=1))
    return CasePipeline(devices, bounds, "interleaved" if case.virtual > 1 else "1f1b")


def stage_bounds(case: Case) -> tuple[tuple[int, int], ...]:
    """First and last layer of every stage, in the order of the pipeline; the embedding and the head
    belong to the outer ones."""
    return tuple(_bounds(case, stage) for stage in range(case.num_stages))


def _bounds(case: Case, stage: int) -> tuple[int, int]:
    blocks, stages = case.config.layers, case.num_stages
    if case.partition is not None and len(case.partition) == stages + 1:
        first, last = case.partition[stage], case.partition[stage + 1]
    elif case.stack.balance == "layers" and blocks % stages and (blocks + 2) % stages == 0:
        return _even(case.config.num_layers, stages, stage)
    else:
        first, last = _even(blocks, stages, stage)
    return (
        0 if stage == 0 else first + 1,
        case.config.num_layers if stage == stages - 1 else last + 1,
    )


def _even(count: int, stages: int, stage: int) -> tuple[int, int]:
    """Bounds of one of `stages` even parts; the first parts have the odd ones."""
    size, odd = divmod(count, stages)
    return stage * size + min(stage, odd), (stage + 1) * size + min(stage + 1, odd)
