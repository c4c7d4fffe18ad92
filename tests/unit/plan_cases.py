"""Small recipes and clusters for the planner's tests."""

from __future__ import annotations

from collections.abc import Sequence

from motley.chips.chip import Chip, Link
from motley.cluster import Cluster
from motley.model.config import ModelConfig
from motley.plan.layout import Layout
from motley.plan.memory.stage import stage_memory
from motley.recipe import BatchConfig, Recipe
from motley.units import Precision

FAST = Link(bandwidth_bytes_per_s=1e12, latency_s=0.0, source="emulated")
ETHERNET = Link(bandwidth_bytes_per_s=1e9, latency_s=1e-4, source="emulated")
ROOMY = 2**36


def make_chip(
    name: str,
    flops_per_s: float,
    *,
    memory_bytes: float = ROOMY,
    bandwidth: float = 1e12,
    precision: Precision = "fp32",
) -> Chip:
    """An emulated chip of its own kind."""
    return Chip(
        name=name,
        kind=f"emulated-{flops_per_s:.3g}",
        emulated=True,
        precision=precision,
        flops_per_s={precision: flops_per_s},
        memory_bytes=int(memory_bytes),
        memory_bandwidth_bytes_per_s=bandwidth,
        source="emulated",
    )


def make_cluster(
    speeds: Sequence[float], memory: Sequence[float] | None = None, link: Link = FAST
) -> Cluster:
    """Chips a, b, c ... of these FLOP/s and bytes."""
    chips = tuple(
        make_chip("abcdefgh"[index], speed, memory_bytes=memory[index] if memory else ROOMY)
        for index, speed in enumerate(speeds)
    )
    return Cluster(name="test", chips=chips, links=(link,))


def make_recipe(
    *, layers: int = 6, width: int = 64, global_batch: int = 16, vocab_size: int = 500
) -> Recipe:
    """A small GPT-2 with 64 tokens a sample."""
    return Recipe(
        model=ModelConfig(layers=layers, width=width, heads=4, vocab_size=vocab_size, context=64),
        batch=BatchConfig(sequence_length=64, global_batch=global_batch),
    )


def least_memory(recipe: Recipe) -> int:
    """Bytes of the whole model on one chip, with recompute and one sample at a time."""
    return stage_memory(
        recipe.model,
        recipe.batch.sequence_length,
        "fp32",
        (0, recipe.model.num_layers),
        num_in_flight=1,
        micro_batch_size=1,
        layout=Layout(recompute="full"),
    ).total_bytes
