"""Gives the head its sample of targets, a new one for each step: the same under every plan.

Frequencies are those at the beginning of the training text, so every rank and every resumed run
draws alike. Outside of training steps the head has no sample, and its loss is exact.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

from motley.data.batches import SampleSource, token_counts
from motley.model.layers import Head
from motley.model.sampled_loss import negatives_of
from motley.model.target_sample import Integers, draw_targets
from motley.recipe import Recipe


class TargetSampler:
    """Samples for the head of one rank; does nothing where there is no head, or no sampling."""

    def __init__(self, recipe: Recipe, modules: dict[int, nn.Module]) -> None:
        self._recipe = recipe
        head = modules.get(recipe.model.num_layers - 1)
        self._head = head if isinstance(head, Head) else None
        self._counts: Integers | None = None

    @contextlib.contextmanager
    def sampling(self, step: int, source: SampleSource) -> Iterator[None]:
        """Within it the head computes with the sample of that step."""
        size = self._recipe.model.sampled_targets
        if self._head is None or size is None:
            yield
            return
        vocabulary = self._recipe.model.vocabulary
        if self._counts is None:
            self._counts = token_counts(source.stream, vocabulary)
        sample = draw_targets(self._counts, size, self._recipe.seed, step)
        self._head.negatives = negatives_of(sample, vocabulary, self._head.matrix.device)
        try:
            yield
        finally:
            self._head.negatives = None
