"""The mean of the weights over the last steps of a training (Izmailov et al., arXiv 1803.05407).

It has its own memory: the training goes on with the weights themselves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor


class TailAverage:
    """The running mean of named tensors; nothing is kept before the first one is added."""

    def __init__(self, masters: Mapping[str, Tensor]) -> None:
        self._masters = dict(masters)
        self._means: dict[str, Tensor] = {}
        self.count = 0
        """Updates whose weights are in the mean."""

    def begin(self, count: int) -> None:
        """Makes the mean of `count` updates, to be filled through `state`."""
        self.count = count
        self._means = {name: torch.empty_like(each) for name, each in self._masters.items()}

    @torch.no_grad()
    def add(self) -> None:
        """Takes the weights as they are now into the mean."""
        if not self.count:
            self.begin(0)
        self.count += 1
        means, masters = list(self._means.values()), list(self._masters.values())
        if self.count == 1:
            torch._foreach_copy_(means, masters)
        else:
            torch._foreach_lerp_(means, masters, 1 / self.count)

    def state(self, name: str) -> dict[str, Tensor]:
        """The live mean of one tensor; empty while there is none."""
        return {"average": self._means[name]} if self.count and name in self._means else {}

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the weights are their mean."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, mean in self._means.items():
            kept = self._masters[name].clone()
            self._masters[name].copy_(mean)
            mean.copy_(kept)
