"""How one stage lies on the chips that hold it: split, copied, sharded, recomputed."""

from __future__ import annotations

from typing import Literal, NamedTuple

Sharding = Literal["none", "optimizer", "full"]
"""What the data-parallel members of a group share out among themselves: nothing, the optimizer's
state (ZeRO-1), or parameters and gradients too (ZeRO-3, fully-sharded data parallel; Rajbhandari et
al., arXiv 1910.02054)."""

Recompute = Literal["none", "selective", "full"]
"""What the backward pass computes again: nothing, the inside of the attention (Korthikanti et al.,
arXiv 2205.05198), or whole layers from their inputs (Chen et al., arXiv 1604.06174)."""


class Layout(NamedTuple):
    """A group of alike chips that holds one stage: `data` members of `tensor` chips each.

    The members share out the samples of each micro-batch; the chips of a member share every layer.
    """

    tensor: int = 1
    data: int = 1
    expert: int = 1
    """Chips over which the experts of a mixture are spread; a divisor of the group's chips."""
    sharding: Sharding = "none"
    recompute: Recompute = "none"

    @property
    def num_chips(self) -> int:
        return self.tensor * self.data

    def member_samples(self, num_samples: int) -> int:
        """Samples of a micro-batch of `num_samples` that the fullest member computes."""
        return -(-num_samples // self.data)
