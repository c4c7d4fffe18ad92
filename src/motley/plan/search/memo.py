"""What a search works out once and keeps by kinds of blocks: all its evaluators share it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from motley.chips.chip import Link
from motley.plan.layout import Layout
from motley.plan.memory.peak import StageMemory, StageNeeds
from motley.plan.timing.cost import LayerTime
from motley.plan.timing.pipeline import PipelineCost
from motley.units import Precision

if TYPE_CHECKING:
    from motley.plan.search.cut_table import CutTable

Held = tuple[int, ...]
"""How many layers of each kind a stage holds."""


class RunningSums(NamedTuple):
    """Running sums over layers: entry i is the time of the layers before i."""

    forward: tuple[float, ...]
    backward: tuple[float, ...]
    weight: tuple[float, ...]
    """The part of the backward pass that makes the gradients of the parameters."""


class Weighed(NamedTuple):
    """What the whole model takes in one layout."""

    layout: Layout
    pass_s: float
    """Of each micro-batch."""
    once_s: float
    """Of each step."""


class Links(Protocol):
    """How blocks are linked, by their places."""

    def link(self, first: int, second: int) -> Link:
        """Between two blocks when all their chips send at once."""

    def slowest(self, blocks: Sequence[int]) -> Link:
        """As bad as the worst path between any two of the blocks."""


@dataclass(frozen=True)
class Memo:
    """What was worked out for one model, sequence length, space and stack, by kinds of blocks.

    Evaluators of unlike blocks may share it, and of unlike batches where the model has no memory
    tables.
    """

    ids: dict[Hashable, int] = field(default_factory=dict)
    """Numbers of the kinds of blocks, and of chips."""
    held: dict[tuple[int, int], Held] = field(default_factory=dict)
    cuts: dict[tuple[int, ...], CutTable] = field(default_factory=dict)
    """By the cuts between which stages lie."""
    layer_times: dict[tuple[int, int, int, Layout], LayerTime] = field(default_factory=dict)
    """Without messages, by kind of chip, layer and samples of a member."""
    sums: dict[tuple[int, int, Layout], RunningSums] = field(default_factory=dict)
    memory: dict[tuple[Precision, float | None, Held, int, int, Layout], StageMemory] = field(
        default_factory=dict
    )
    """By the link of the chips' collective library, too; None: without one."""
    stage_needs: dict[tuple[Precision, Held, Layout], StageNeeds] = field(default_factory=dict)
    layouts: dict[tuple[int, Held, int, int, int], Layout | None] = field(default_factory=dict)
    weighed: dict[tuple[int, int], tuple[Weighed, ...]] = field(default_factory=dict)
    """All layouts of a kind of block, by micro-batch size."""
    useful: dict[tuple[int, int, int], tuple[Layout, ...]] = field(default_factory=dict)
    parameters: dict[Held, int] = field(default_factory=dict)
    updates: dict[tuple[int, Held, Layout], float] = field(default_factory=dict)
    exchanges: dict[tuple[int, Held, Layout], float] = field(default_factory=dict)
    runs: dict[tuple[PipelineCost, int, bool], tuple[float, ...]] = field(default_factory=dict)
    """Beginnings of last backwards, by costs, number of micro-batches, and whether exact."""
