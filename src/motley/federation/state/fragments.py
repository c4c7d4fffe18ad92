"""Fragments: parts of the parameters that are synchronised in turn, so that little is in flight at
any time and training never waits (Streaming DiLoCo, arXiv 2501.18512).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def partition(
    shapes: Mapping[str, Sequence[int]], num_fragments: int
) -> tuple[tuple[str, ...], ...]:
    """The names of each fragment, of sizes as even as whole tensors allow.

    The largest tensor goes to the fragment with the fewest values (of equals the first), then the
    next: a pure function of names and shapes. A fragment is empty if there are too few tensors.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    fragments: list[list[str]] = [[] for _ in range(num_fragments)]
    filled = [(0, index) for index in range(num_fragments)]
    for name in sorted(sizes, key=lambda each: (-sizes[each], each)):
        total, index = heapq.heappop(filled)
        fragments[index].append(name)
        heapq.heappush(filled, (total + sizes[name], index))
    return tuple(tuple(sorted(names)) for names in fragments)


@torch.no_grad()
def mix_in(
    local: Mapping[str, Tensor],
    published: Mapping[str, Tensor],
    merged: Mapping[str, Tensor],
    share: float,
) -> None:
    """Takes the merged state into the local parameters, in place.

    `published` is what was local when the update was made, some steps ago. Steps since then are
    kept: local <- local + share (merged - published). With a share of 1 and no steps since then
    that is the merged state itself.
    """
    for name, target in merged.items():
        if share == 1.0 and torch.equal(local[name], published[name]):
            local[name].copy_(target)
        else:
            local[name].add_((target - published[name]).mul_(share))
