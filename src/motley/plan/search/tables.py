"""Memory and seconds of single stages and edges on the blocks of a search, each worked out once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

from motley.errors import RecipeError
from motley.model.config import ModelConfig
from motley.plan.layout import Layout
from motley.plan.memory.held import groups_of, held_parameters
from motley.plan.memory.peak import StageMemory, StageNeeds
from motley.plan.memory.stage import context_bytes, stage_needs
from motley.plan.search.blocks import inside, library_link_bytes_per_s, rates
from motley.plan.search.choices import Block, StageChoice
from motley.plan.search.memo import Held, Links, Memo, RunningSums
from motley.plan.space import TRAINABLE, Space
from motley.plan.stack import MOTLEY, Stack
from motley.plan.timing.collectives import send_seconds, start_seconds
from motley.plan.timing.cost import (
    LayerTime,
    backward_flops,
    boundary_bytes,
    counts_of,
    forward_flops,
    member_layout,
    member_time,
    optimizer_seconds,
    with_messages,
)
from motley.plan.timing.messages import Place
from motley.plan.timing.sync import group_exchange_seconds, ring_seconds
from motley.recipe import Recipe


class StageTables:
    """What stages of one recipe need on some blocks of chips."""

    def __init__(
        self,
        recipe: Recipe,
        blocks: Sequence[Block],
        links: Links,
        *,
        space: Space = TRAINABLE,
        stack: Stack = MOTLEY,
        memo: Memo | None = None,
    ) -> None:
        if recipe.model.vocab_size is None:
            raise RecipeError(
                "model.vocab_size is not known yet; a plan needs it.",
                remedy="Set it, or take it from the tokenizer with Recipe.with_vocabulary.",
            )
        self.recipe = recipe
        self.config = recipe.model
        self.sequence_length = recipe.batch.sequence_length
        self.global_batch = recipe.batch.global_batch
        self.num_layers = recipe.model.num_layers
        self.blocks = tuple(blocks)
        self.links = links
        self.space = space
        self.stack = stack
        self.groups = groups_of(self.config)
        self.memo = memo or Memo()
        ids = self.memo.ids
        self._ids = [ids.setdefault(inside(block), len(ids)) for block in self.blocks]
        self._chip_ids = [ids.setdefault(rates(block.chip), len(ids)) for block in self.blocks]
        self._library_links = [library_link_bytes_per_s(block) for block in self.blocks]
        self._kinds = _layer_kinds(self.config, self.sequence_length)
        self._exchanges: dict[int, float] = {}
        self._held_before = _running_counts(self._kinds)

    def sample_flops(self) -> list[float]:
        """FLOPs of forward and backward of one sample, by layer."""
        precision = self.blocks[0].chip.precision
        return [
            forward_flops(self.config, layer, self.sequence_length, precision)
            + backward_flops(self.config, layer, self.sequence_length, precision, False)
            for layer in range(self.num_layers)
        ]

    def held(self, first_layer: int, last_layer: int) -> Held:
        """How many layers of each kind the range has; equal ranges cost the same."""
        key = (first_layer, last_layer)
        found = self.memo.held.get(key)
        if found is None:
            before, after = self._held_before[first_layer], self._held_before[last_layer]
            found = tuple(b - a for a, b in zip(before, after, strict=True))
            self.memo.held[key] = found
        return found

    def parameters(self, stage: StageChoice) -> int:
        """Parameters that the stage holds."""
        key = self.held(stage.first_layer, stage.last_layer)
        found = self.memo.parameters.get(key)
        if found is None:
            found = held_parameters(self.config, stage.first_layer, stage.last_layer)
            self.memo.parameters[key] = found
        return found

    def memory(
        self, stage: StageChoice, num_in_flight: int, micro_batch_size: int, layout: Layout
    ) -> StageMemory:
        """Predicted peak of a stage, on each of its chips."""
        block, first, last = stage
        precision, link = self.blocks[block].chip.precision, self._library_links[block]
        held = self.held(first, last)
        key = (precision, link, held, num_in_flight, micro_batch_size, layout)
        need = self.memo.memory.get(key)
        if need is None:
            joined_by_host = (precision, None, held, num_in_flight, micro_batch_size, layout)
            need = self.memo.memory.get(joined_by_host)
            if need is None:
                samples = layout.member_samples(micro_batch_size)
                need = self.needs(stage, layout).peak(num_in_flight, samples)
                self.memo.memory[joined_by_host] = need
            if link is not None:
                context = self.context_bytes(block, layout, last - first < self.num_layers)
                need = dataclasses.replace(need, context_bytes=context)
                self.memo.memory[key] = need
        return need

    def needs(self, stage: StageChoice, layout: Layout) -> StageNeeds:
        """What the stage needs, whatever its micro-batches and their number, and whatever library
        joins its chips."""
        block, first, last = stage
        precision = self.blocks[block].chip.precision
        key = (precision, self.held(first, last), layout)
        needs = self.memo.stage_needs.get(key)
        if needs is None:
            needs = self.memo.stage_needs[key] = stage_needs(
                self.config,
                self.sequence_length,
                precision,
                (first, last),
                layout=layout,
                stack=self.stack,
                recipe=self.recipe,
            )
        return needs

    def context_bytes(self, block: int, layout: Layout, in_pipeline: bool) -> int:
        """Of each chip's memory, outside the framework's allocator."""
        return context_bytes(layout, self.stack, in_pipeline, self._library_links[block])

    def running_sums(self, block: int, num_samples: int, layout: Layout) -> RunningSums:
        """Running sums of the layers' times on a block."""
        key = (self._ids[block], num_samples, layout)
        found = self.memo.sums.get(key)
        if found is None and layout.sharding == "optimizer":  # the passes are those of "none"
            alike = layout._replace(sharding="none")
            found = self.memo.sums[key] = self.running_sums(block, num_samples, alike)
        elif found is None:
            times = self._layer_times(block, num_samples, layout)
            found = self.memo.sums[key] = RunningSums(
                tuple(accumulate((time.forward_s for time in times), initial=0.0)),
                tuple(accumulate((time.backward_s for time in times), initial=0.0)),
                tuple(accumulate((time.weight_s for time in times), initial=0.0)),
            )
        return found

    def _layer_times(self, block: int, num_samples: int, layout: Layout) -> list[LayerTime]:
        samples = layout.member_samples(num_samples)
        known: dict[int, LayerTime] = {}
        for layer, kind in enumerate(self._kinds):
            if kind not in known:
                known[kind] = self._layer_time(block, layer, samples, layout)
        return [known[kind] for kind in self._kinds]

    def _layer_time(self, block: int, layer: int, samples: int, layout: Layout) -> LayerTime:
        """Of a layer on a block whose members have so many samples each."""
        chip, spread = self.blocks[block]
        alike = member_layout(layout)
        key = (self._chip_ids[block], layer, samples, alike)
        alone = self.memo.layer_times.get(key)
        if alone is None:
            alone = self.memo.layer_times[key] = member_time(
                chip, self.config, layer, self.sequence_length, samples, alike, self.stack
            )
        place = Place(self.config, layer, self.sequence_length, samples, layout, spread, self.stack)
        return with_messages(alone, chip, place)

    def pass_seconds(
        self, stage: StageChoice, num_samples: int, layout: Layout
    ) -> tuple[float, float]:
        """Forward and backward time of one micro-batch."""
        sums = self.running_sums(stage.block, num_samples, layout)
        first, last = stage.first_layer, stage.last_layer
        return sums.forward[last] - sums.forward[first], sums.backward[last] - sums.backward[first]

    def weight_seconds(self, stage: StageChoice, num_samples: int, layout: Layout) -> float:
        """The part of the backward time that makes the gradients of the parameters."""
        weight = self.running_sums(stage.block, num_samples, layout).weight
        return weight[stage.last_layer] - weight[stage.first_layer]

    def optimizer_seconds(self, stage: StageChoice, layout: Layout) -> float:
        """Time of the update of what the stage holds, Muon's directions left out: those are shared
        by all replicas."""
        key = (self._ids[stage.block], self.held(stage.first_layer, stage.last_layer), layout)
        seconds = self.memo.updates.get(key)
        if seconds is None:
            chip = self.blocks[stage.block].chip
            seconds = optimizer_seconds(chip, self.parameters(stage), layout, self.stack)
            self.memo.updates[key] = seconds
        return seconds

    def exchange_seconds(self, stage: StageChoice, layout: Layout) -> float:
        """Time in which the members of the stage's group add up their gradients."""
        if layout.data == 1:
            return 0.0
        key = (self._ids[stage.block], self.held(stage.first_layer, stage.last_layer), layout)
        seconds = self.memo.exchanges.get(key)
        if seconds is None:
            spread = self.blocks[stage.block].spread
            held = self.parameters(stage)
            seconds = group_exchange_seconds(held, layout, spread, self.stack)
            self.memo.exchanges[key] = seconds
        return seconds

    def all_reduce_seconds(self, num_parameters: float, blocks: Sequence[int]) -> float:
        """Time in which blocks that hold the same parameters add up their gradients; a block that
        is named more than once stands for as many alike."""
        if len(blocks) < 2:
            return 0.0
        slowest = self.links.slowest(blocks)
        stack = self.stack
        return ring_seconds(
            num_parameters, len(blocks), slowest, stack.exchange_bytes, stack.constants
        )

    def typical_exchange_seconds(self, block: int) -> float:
        """Time in which the block adds up all gradients with one other, over its best link."""
        found = self._exchanges.get(block)
        if found is None:
            held = self.parameters(StageChoice(block, 0, self.num_layers))
            found = self._exchanges[block] = min(
                self.all_reduce_seconds(held, (block, other)) for other in range(len(self.blocks))
            )
        return found

    def edge_seconds(
        self, first: int, second: int, num_samples: int, layer: int | None = None
    ) -> tuple[float, float]:
        """How long one message occupies the edge between two blocks, and its latency. `layer` is
        the first behind the edge; unset means where most passes.

        A message that holds up its chip holds it up while a library begins it, too.
        """
        link = self.links.link(first, second)
        num_bytes = boundary_bytes(
            self.config,
            self.sequence_length,
            num_samples,
            self.blocks[first].chip.precision,
            self.blocks[second].chip.precision,
            layer,
        )
        constants = self.stack.constants
        start_s = start_seconds(link, constants) if self.stack.blocking_sends else 0.0
        return send_seconds(num_bytes, link, constants), link.latency_s + start_s


@lru_cache(maxsize=64)
def _layer_kinds(config: ModelConfig, sequence_length: int) -> tuple[int, ...]:
    """A number for each layer, the same for layers that cost the same."""
    known: dict[object, int] = {}
    kinds = []
    for layer in range(config.num_layers):
        counts = counts_of(config, layer, sequence_length, "bf16")
        kinds.append(known.setdefault(counts, len(known)))
    return tuple(kinds)


def _running_counts(kinds: Sequence[int]) -> list[Held]:
    """Entry i counts the layers of each kind before i."""
    counts = [0] * (max(kinds) + 1)
    found = [tuple(counts)]
    for kind in kinds:
        counts[kind] += 1
        found.append(tuple(counts))
    return found
