"""In which layouts the stages of a search lie on their blocks: the fastest that fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import le, lt

from motley.plan.layout import Layout
from motley.plan.memory.peak import StageMemory, device_memory
from motley.plan.search.choices import ReplicaChoice, StageChoice
from motley.plan.search.memo import Weighed
from motley.plan.search.tables import StageTables
from motley.plan.space import layouts
from motley.plan.timing.schedule import in_flight_of

FEW_AND_MANY = (1, 32)
"""Micro-batches in flight for which layouts are compared."""


class LayoutTables(StageTables):
    """The layouts of stages of one recipe on some blocks of chips."""

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
        key = (self._ids[block], self.held(first, last), num_in_flight, micro_batch_size, count)
        layouts = self.memo.layouts
        if key not in layouts:
            kept = ((stage, num_in_flight),)
            layouts[key] = self.shared_layout(kept, micro_batch_size, count)
        return layouts[key]

    def shared_layout(
        self, kept: Sequence[tuple[StageChoice, int]], size: int, num_micro_batches: int
    ) -> Layout | None:
        """The fastest layout with which one block holds all these stages with their micro-batches
        in flight."""
        block = kept[0][0].block
        available = self.blocks[block].chip.memory_bytes
        for layout in self.useful_layouts(block, size, num_micro_batches):
            parts = [self.memory(stage, count, size, layout) for stage, count in kept]
            need = parts[0] if len(parts) == 1 else device_memory(parts)
            if need.total_bytes <= available:
                return layout
        return None

    def count_weight(self, block: int, num_micro_batches: int) -> int:
        """The number of micro-batches as layouts tell it apart: rounded up to a power of four."""
        if self.blocks[block].num_chips == 1:
            return 1
        return 1 << (max(0, num_micro_batches - 1).bit_length() + 1) // 2 * 2

    def useful_layouts(self, block: int, size: int, num_micro_batches: int) -> tuple[Layout, ...]:
        """A block's layouts, the fastest for the whole model first.

        Those that need no less memory than a faster one, for few and for many micro-batches in
        flight, are left out, and so are all behind one in which the whole model fits.
        """
        count = self.count_weight(block, num_micro_batches)
        key = (self._ids[block], size, count)
        found = self.memo.useful.get(key)
        if found is None:
            found = self.memo.useful[key] = tuple(self._work_out_useful(block, size, count))
        return found

    def _work_out_useful(self, block: int, size: int, count: int) -> Iterator[Layout]:
        if self.blocks[block].num_chips == 1:
            yield from layouts(self.blocks[block], self.config, self.space)
            return
        whole = StageChoice(block, 0, self.num_layers)
        least = [float("inf")] * len(FEW_AND_MANY)
        known = self._weighed(block, size)
        for layout, *_ in sorted(known, key=lambda each: each.pass_s + each.once_s / count):
            needs = [self.memory(whole, kept, size, layout).total_bytes for kept in FEW_AND_MANY]
            if any(map(lt, needs, least)):
                least = list(map(min, needs, least))
                yield layout
            if max(needs) <= self.blocks[block].chip.memory_bytes:
                return

    def _weighed(self, block: int, size: int) -> tuple[Weighed, ...]:
        """All layouts with what the whole model takes in them, from the simplest on."""
        key = (self._ids[block], size)
        found = self.memo.weighed.get(key)
        if found is None:
            whole = StageChoice(block, 0, self.num_layers)
            found = self.memo.weighed[key] = tuple(
                Weighed(
                    layout,
                    sum(self.pass_seconds(whole, size, layout)),
                    self.optimizer_seconds(whole, layout) + self.exchange_seconds(whole, layout),
                )
                for layout in layouts(self.blocks[block], self.config, self.space)
            )
        return found

    def layouts(self, replica: ReplicaChoice) -> tuple[Layout, ...] | None:
        """The layout of every stage; None if any does not fit."""
        size = min(replica.micro_batch_size, replica.num_samples)
        count = replica.num_micro_batches
        if replica.layouts:
            needs = self.group_needs(replica, replica.layouts)
            able = [self.blocks[stage.block].chip.memory_bytes for stage in replica.stages]
            return replica.layouts if all(map(le, needs, able)) else None
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

    def group_needs(self, replica: ReplicaChoice, layouts: Sequence[Layout]) -> list[int]:
        """Predicted peak bytes of every stage's chips, all stages of a group together."""
        parts: dict[int, list[StageMemory]] = {}
        size = replica.micro_batch_size
        for group, stage, kept, layout in zip(
            replica.held_by, replica.stages, kept_by(replica), layouts, strict=True
        ):
            parts.setdefault(group, []).append(self.memory(stage, kept, size, layout))
        needs = {group: device_memory(each).total_bytes for group, each in parts.items()}
        return [needs[group] for group in replica.held_by]

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


def kept_by(replica: ReplicaChoice) -> tuple[int, ...]:
    """Most micro-batches that each stage of the replica keeps at once."""
    return in_flight_of(replica.held_by, replica.num_micro_batches, replica.schedule)
