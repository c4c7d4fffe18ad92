"""Memory and seconds of single stages and edges on the blocks of a search, each worked out once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from motley.chips.chip import Link
from motley.errors import RecipeError
from motley.plan.choices import Block, ReplicaChoice, StageChoice
from motley.plan.cost import (
    LayerTime,
    backward_flops,
    boundary_bytes,
    counts_of,
    forward_flops,
    layer_time,
    optimizer_seconds,
)
from motley.plan.held import groups_of, held_parameters
from motley.plan.layout import Layout
from motley.plan.memory import StageMemory, device_memory, stage_memory
from motley.plan.schedule import in_flight_of
from motley.plan.space import TRAINABLE, Space, layouts
from motley.plan.stack import MOTLEY, Stack
from motley.plan.sync import group_exchange_seconds
from motley.recipe import Recipe
from motley.units import Precision

Held = tuple[int, ...]
"""How many layers of each kind a stage holds."""


class RunningSums(NamedTuple):
    """Running sums over layers: entry i is the time of the layers before i."""

    forward: tuple[float, ...]
    backward: tuple[float, ...]
    weight: tuple[float, ...]
    """The part of the backward pass that makes the gradients of the parameters."""


class StageTables:
    """What stages of one recipe need on some blocks of chips."""

    def __init__(
        self,
        recipe: Recipe,
        blocks: Sequence[Block],
        link: Callable[[int, int], Link],
        *,
        space: Space = TRAINABLE,
        stack: Stack = MOTLEY,
    ) -> None:
        if recipe.model.vocab_size is None:
            raise RecipeError(
                "model.vocab_size is not known yet; a plan needs it.",
                remedy="Set it, or take it from the tokenizer with Recipe.with_vocabulary.",
            )
        self.config = recipe.model
        self.sequence_length = recipe.batch.sequence_length
        self.global_batch = recipe.batch.global_batch
        self.num_layers = recipe.model.num_layers
        self.blocks = tuple(blocks)
        self.link = link
        self.space = space
        self.stack = stack
        self.groups = groups_of(self.config)
        self._kinds = _layer_kinds(recipe)
        self._held_before = _running_counts(self._kinds)
        self._sums: dict[tuple[int, int, Layout], RunningSums] = {}
        self._memory: dict[tuple[Precision, Held, int, int, Layout], StageMemory] = {}
        self._layouts: dict[tuple[int, Held, int, int, int], Layout | None] = {}
        self._useful: dict[tuple[int, int, int, int], tuple[Layout, ...]] = {}
        self._parameters: dict[Held, int] = {}
        self._updates: dict[tuple[int, Held, Layout], float] = {}

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
        before, after = self._held_before[first_layer], self._held_before[last_layer]
        return tuple(b - a for a, b in zip(before, after, strict=True))

    def parameters(self, stage: StageChoice) -> int:
        """Parameters that the stage holds."""
        key = self.held(stage.first_layer, stage.last_layer)
        found = self._parameters.get(key)
        if found is None:
            found = held_parameters(self.config, stage.first_layer, stage.last_layer)
            self._parameters[key] = found
        return found

    def memory(
        self, stage: StageChoice, num_in_flight: int, micro_batch_size: int, layout: Layout
    ) -> StageMemory:
        """Predicted peak of a stage, on each of its chips."""
        block, first, last = stage
        precision = self.blocks[block].chip.precision
        key = (precision, self.held(first, last), num_in_flight, micro_batch_size, layout)
        need = self._memory.get(key)
        if need is None:
            need = self._memory[key] = stage_memory(
                self.config,
                self.sequence_length,
                precision,
                (first, last),
                num_in_flight=num_in_flight,
                micro_batch_size=micro_batch_size,
                layout=layout,
                stack=self.stack,
            )
        return need

    def layout(
        self,
        stage: StageChoice,
        num_in_flight: int,
        micro_batch_size: int,
        num_micro_batches: int = 1,
    ) -> Layout | None:
        """The fastest layout that fits the stage's chips; None if none does.

        `num_micro_batches` weighs what is done once a step against what each micro-batch takes;
        it makes no difference on a single chip.
        """
        block, first, last = stage
        count = self.count_weight(block, num_micro_batches)
        key = (block, self.held(first, last), num_in_flight, micro_batch_size, count)
        if key not in self._layouts:
            kept = ((stage, num_in_flight),)
            self._layouts[key] = self.shared_layout(kept, micro_batch_size, count)
        return self._layouts[key]

    def shared_layout(
        self, kept: Sequence[tuple[StageChoice, int]], size: int, num_micro_batches: int
    ) -> Layout | None:
        """The fastest layout with which one block holds all these stages with their micro-batches
        in flight."""
        block, most = kept[0][0].block, max(count for _, count in kept)
        available = self.blocks[block].chip.memory_bytes
        for layout in self.useful_layouts(block, most, size, num_micro_batches):
            parts = [self.memory(stage, count, size, layout) for stage, count in kept]
            need = parts[0] if len(parts) == 1 else device_memory(parts)
            if need.total_bytes <= available:
                return layout
        return None

    def count_weight(self, block: int, num_micro_batches: int) -> int:
        """The number of micro-batches as layouts tell it apart: rounded up to a power of two."""
        if self.blocks[block].num_chips == 1:
            return 1
        return 1 << max(0, num_micro_batches - 1).bit_length()

    def useful_layouts(
        self, block: int, num_in_flight: int, size: int, num_micro_batches: int
    ) -> tuple[Layout, ...]:
        """A block's layouts, the fastest for the whole model first and each of the others with less
        memory than all before it."""
        key = (block, num_in_flight, size, self.count_weight(block, num_micro_batches))
        found = self._useful.get(key)
        if found is None:
            found = self._useful[key] = tuple(self._work_out_useful(*key))
        return found

    def _work_out_useful(
        self, block: int, num_in_flight: int, size: int, count: int
    ) -> Iterator[Layout]:
        whole = StageChoice(block, 0, self.num_layers)

        def seconds(layout: Layout) -> float:
            forward, backward = self.pass_seconds(whole, size, layout)
            once = self.optimizer_seconds(whole, layout) + self.exchange_seconds(whole, layout)
            return forward + backward + once / count

        known = layouts(self.blocks[block], self.config, self.space)
        if self.blocks[block].num_chips > 1:
            known = tuple(sorted(known, key=seconds))
        least: int | None = None
        for layout in known:
            need = self.memory(whole, num_in_flight, size, layout).total_bytes
            if least is None or need < least:
                least = need
                yield layout

    def layouts(self, replica: ReplicaChoice) -> tuple[Layout, ...] | None:
        """The layout of every stage; None if any does not fit."""
        size = min(replica.micro_batch_size, replica.num_samples)
        count = replica.num_micro_batches
        if replica.devices:
            return self._layouts_by_group(replica, size, count)
        found = []
        for stage, kept in zip(replica.stages, kept_by(replica), strict=True):
            layout = self.layout(stage, kept, size, count)
            if layout is None:
                return None
            found.append(layout)
        return tuple(found)

    def smallest_layout(
        self, stage: StageChoice, num_in_flight: int, replica: ReplicaChoice
    ) -> Layout:
        """The stage's own fastest layout, or where none fits the one that needs least memory."""
        size, count = replica.micro_batch_size, replica.num_micro_batches
        known = layouts(self.blocks[stage.block], self.config, self.space)
        return self.layout(stage, num_in_flight, size, count) or min(
            known, key=lambda each: self.memory(stage, num_in_flight, size, each).total_bytes
        )

    def _layouts_by_group(
        self, replica: ReplicaChoice, size: int, count: int
    ) -> tuple[Layout, ...] | None:
        """The same where groups hold several stages, each in one layout."""
        held: dict[int, list[tuple[StageChoice, int]]] = {}
        for group, stage, kept in zip(
            replica.devices, replica.stages, kept_by(replica), strict=True
        ):
            held.setdefault(group, []).append((stage, kept))
        chosen = {group: self.shared_layout(kept, size, count) for group, kept in held.items()}
        layouts = [chosen[group] for group in replica.devices]
        known = [layout for layout in layouts if layout is not None]
        return tuple(known) if len(known) == len(layouts) else None

    def running_sums(self, block: int, num_samples: int, layout: Layout) -> RunningSums:
        """Running sums of the layers' times on a block."""
        key = (block, num_samples, layout)
        found = self._sums.get(key)
        if found is None:
            times = self._layer_times(block, num_samples, layout)
            found = self._sums[key] = RunningSums(
                tuple(accumulate((time.forward_s for time in times), initial=0.0)),
                tuple(accumulate((time.backward_s for time in times), initial=0.0)),
                tuple(accumulate((time.weight_s for time in times), initial=0.0)),
            )
        return found

    def _layer_times(self, block: int, num_samples: int, layout: Layout) -> list[LayerTime]:
        chip, spread = self.blocks[block]
        known: dict[int, LayerTime] = {}
        for layer, kind in enumerate(self._kinds):
            if kind not in known:
                known[kind] = layer_time(
                    chip,
                    self.config,
                    layer,
                    self.sequence_length,
                    num_samples,
                    layout,
                    spread,
                    self.stack,
                )
        return [known[kind] for kind in self._kinds]

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
        """Time of the update of what the stage holds."""
        key = (stage.block, self.held(stage.first_layer, stage.last_layer), layout)
        seconds = self._updates.get(key)
        if seconds is None:
            chip = self.blocks[stage.block].chip
            seconds = optimizer_seconds(chip, self.parameters(stage), layout, self.stack)
            self._updates[key] = seconds
        return seconds

    def exchange_seconds(self, stage: StageChoice, layout: Layout) -> float:
        """Time in which the members of the stage's group add up their gradients."""
        if layout.data == 1:
            return 0.0
        spread = self.blocks[stage.block].spread
        return group_exchange_seconds(self.parameters(stage), layout, spread, self.stack)

    def edge_seconds(self, first: int, second: int, num_samples: int) -> tuple[float, float]:
        """How long one message occupies the edge between two blocks, and its latency."""
        link = self.link(first, second)
        num_bytes = boundary_bytes(
            self.config,
            self.sequence_length,
            num_samples,
            self.blocks[first].chip.precision,
            self.blocks[second].chip.precision,
        )
        return num_bytes / link.bandwidth_bytes_per_s, link.latency_s


def kept_by(replica: ReplicaChoice) -> tuple[int, ...]:
    """Most micro-batches that each stage of the replica keeps at once."""
    return in_flight_of(replica.held_by, replica.num_micro_batches, replica.schedule)


def _layer_kinds(recipe: Recipe) -> tuple[int, ...]:
    """A number for each layer, the same for layers that cost the same."""
    known: dict[object, int] = {}
    kinds = []
    for layer in range(recipe.model.num_layers):
        counts = counts_of(recipe.model, layer, recipe.batch.sequence_length, "bf16")
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
