"""Sizes of what optimizers keep and take, for them and for whoever plans with them."""

from __future__ import annotations

STACK_ELEMENTS = 2**21
"""Matrices of one shape are orthogonalised together up to this size, a larger one alone."""
STACK_BYTES_PER_ELEMENT = 32
"""Of orthogonalising a stack in fp32, the most that is there at once: the stack, it again normed,
scaled and combined, and of squares as much for xx', its square, their sum and the product."""
BLOCK_ELEMENTS = 256
"""Elements that share the scale of an 8-bit moment."""
FEWEST_CODED_ELEMENTS = 4096
"""Smaller parameters have next to no state and keep it in 32 bits (as in bitsandbytes)."""
CODED_BYTES = 2 + 2 * 4 / BLOCK_ELEMENTS
"""Per parameter: two codes, and two fp32 scales of each block."""
PIECE_BLOCKS = 2**10
"""Blocks that are decoded at once: what the update takes in memory stays the same."""
PIECE_BYTES = PIECE_BLOCKS * BLOCK_ELEMENTS * 4 * 10
"""Of that: at most ten fp32 tensors."""
