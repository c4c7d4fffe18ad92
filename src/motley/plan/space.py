"""What a search may choose from: the ways to lay a stage on its chips, and the schedules.

The trainer executes less than can be planned. `TRAINABLE` is what it runs today; `ANY` is all that
the time and memory models know, for clusters that are planned before they are built.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from motley.model.config import ModelConfig
from motley.plan.layout import Layout, Recompute, Sharding
from motley.plan.search.choices import Block
from motley.plan.timing.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Space:
    """The choices that a plan may make."""

    groups: bool
    """The chips of a stage may share it: tensor and expert parallel, sharded. Without, they are as
    many replicas, and the stages of a pipeline have as many chips each."""
    recompute: tuple[Recompute, ...]
    """From the least to the most."""
    schedules: tuple[Schedule, ...]


TRAINABLE = Space(groups=False, recompute=("none", "full"), schedules=("1f1b",))
ANY = Space(
    groups=True,
    recompute=("none", "selective", "full"),
    schedules=("1f1b", "interleaved", "zero-bubble"),
)


def layouts(block: Block, config: ModelConfig, space: Space) -> tuple[Layout, ...]:
    """Every way to lay a stage on all chips of a block, from the simplest on.

    Tensor parallelism stays inside a node and divides the key-value heads, as Megatron-LM's does
    (arXiv 1909.08053); experts divide evenly.
    """
    return _layouts(block.num_chips, min(block.num_chips, block.spread.per_node), config, space)


@lru_cache(maxsize=4096)
def _layouts(
    num_chips: int, per_node: int, config: ModelConfig, space: Space
) -> tuple[Layout, ...]:
    tensors = _tensor_degrees(num_chips, per_node, config) if space.groups else [1]
    experts = _expert_degrees(num_chips, config) if space.groups else [1]
    return tuple(
        Layout(tensor, num_chips // tensor, expert, sharding, recompute)
        for recompute in space.recompute
        for tensor in tensors
        for sharding in _shardings(num_chips // tensor, space)
        for expert in experts
    )


def _shardings(data: int, space: Space) -> tuple[Sharding, ...]:
    return ("none", "optimizer", "full") if data > 1 and space.groups else ("none",)


def _tensor_degrees(num_chips: int, per_node: int, config: ModelConfig) -> list[int]:
    return [
        degree
        for degree in range(1, per_node + 1)
        if per_node % degree == 0 and num_chips % degree == 0 and splits_heads(config, degree)
    ]


def splits_heads(config: ModelConfig, degree: int) -> bool:
    """Whether so many chips of a tensor group get as many heads each."""
    return config.num_key_value_heads % degree == 0 and config.heads % degree == 0


def _expert_degrees(num_chips: int, config: ModelConfig) -> list[int]:
    """1, and the largest number of chips that shares the experts evenly."""
    largest = max(
        degree
        for degree in range(1, num_chips + 1)
        if num_chips % degree == 0 and splits_experts(config, degree)
    )
    return sorted({1, largest})


def splits_experts(config: ModelConfig, degree: int) -> bool:
    """Whether so many chips get as many experts of a mixture each; 1 always will."""
    experts = config.mixture.experts if config.mixture else 1
    return experts % degree == 0
