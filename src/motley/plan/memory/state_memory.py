"""Bytes of training state per chip: parameters, gradients, optimizer, and what the step takes.

AdamW in mixed precision has 16-bit parameters, fp32 masters and two fp32 moments (Micikevicius et
al., arXiv 1710.03740); which of them the members of a group share out is the layout's `sharding`
(Rajbhandari et al., arXiv 1910.02054: stage 1 the optimizer, stage 3 everything).
"""

from __future__ import annotations

from motley.plan.layout import Layout
from motley.plan.memory.held import Held
from motley.plan.memory.update import MOMENT_BYTES
from motley.plan.stack import MOTLEY, Stack
from motley.units import BYTES_PER_ELEMENT, Precision

MASTER_BYTES = 4


def optimizer_bytes(precision: Precision, moments: float = MOMENT_BYTES) -> float:
    """Per parameter: moments, and masters where the layers compute in fewer bits."""
    return moments + (MASTER_BYTES if BYTES_PER_ELEMENT[precision] < MASTER_BYTES else 0)


def bytes_per_parameter(precision: Precision, moments: float = MOMENT_BYTES) -> float:
    """Of motley's trainer on one chip, which keeps everything there."""
    kept = optimizer_bytes(precision, moments)
    return BYTES_PER_ELEMENT[precision] + MOTLEY.gradient_bytes + kept


def state_bytes(
    held: Held, precision: Precision, layout: Layout, moments: float = MOMENT_BYTES
) -> float:
    """Parameters and optimizer state on one chip, with so many bytes of moments per parameter."""
    here, share = held.on_chip(layout), held.share(layout)
    compute_copy = BYTES_PER_ELEMENT[precision]
    if layout.sharding == "none":
        return (compute_copy + optimizer_bytes(precision, moments)) * here
    if layout.sharding == "optimizer":
        return compute_copy * here + optimizer_bytes(precision, moments) * share
    return (MASTER_BYTES + moments) * share


def gradient_bytes(held: Held, layout: Layout, stack: Stack) -> float:
    """Kept gradients on one chip."""
    is_split = layout.sharding == "full" or (
        layout.sharding == "optimizer" and stack.footprint.splits_gradients
    )
    here = held.share(layout) if is_split else held.on_chip(layout)
    return stack.gradient_bytes * here + stack.footprint.extra_gradient_bytes * held.on_chip(layout)


def step_bytes(held: Held, layout: Layout, stack: Stack) -> float:
    """What the optimizer takes for its step, after the last backward pass."""
    updated = held.on_chip(layout) if layout.sharding == "none" else held.share(layout)
    return stack.footprint.step_bytes * updated
