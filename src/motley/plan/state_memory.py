"""Bytes of training state per chip: parameters, gradients, optimizer, and what the step takes.

AdamW in mixed precision has 16-bit parameters, fp32 masters and two fp32 moments (Micikevicius et
al., arXiv 1710.03740); which of them the members of a group share out is the layout's `sharding`
(Rajbhandari et al., arXiv 1910.02054: stage 1 the optimizer, stage 3 everything).
"""

from __future__ import annotations

from motley.plan.held import Held
from motley.plan.layout import Layout
from motley.plan.stack import MOTLEY, Stack
from motley.units import BYTES_PER_ELEMENT, Precision

MASTER_BYTES = 4
MOMENT_BYTES = 8
"""Of both."""


def optimizer_bytes(precision: Precision) -> int:
    """Per parameter: moments, and masters where the layers compute in fewer bits."""
    return MOMENT_BYTES + (MASTER_BYTES if BYTES_PER_ELEMENT[precision] < MASTER_BYTES else 0)


STATE_BYTES_PER_PARAMETER: dict[Precision, int] = {
    precision: BYTES_PER_ELEMENT[precision] + MOTLEY.gradient_bytes + optimizer_bytes(precision)
    for precision in ("fp32", "bf16", "fp16", "fp8")
}
"""Of motley's trainer on one chip, which keeps everything there."""


def state_bytes(held: Held, precision: Precision, layout: Layout) -> float:
    """Parameters and optimizer state on one chip."""
    here, share = held.on_chip(layout), held.share(layout)
    compute_copy = BYTES_PER_ELEMENT[precision]
    if layout.sharding == "none":
        return (compute_copy + optimizer_bytes(precision)) * here
    if layout.sharding == "optimizer":
        return compute_copy * here + optimizer_bytes(precision) * share
    return (MASTER_BYTES + MOMENT_BYTES) * share


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
