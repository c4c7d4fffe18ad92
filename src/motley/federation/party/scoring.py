"""The loss of any parameters on a party's held-out text, on the CPU, beside the training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from motley.data import SampleSource
from motley.model.config import ModelConfig
from motley.model.transformer import build_transformer

BATCH = 8


class HeldOutScore:
    """Called with all parameters by name (fp32), gives nats per token."""

    def __init__(self, config: ModelConfig, samples: SampleSource) -> None:
        self._model = build_transformer(config, seed=0)
        self._samples = samples

    @torch.no_grad()
    def __call__(self, parameters: Mapping[str, Tensor]) -> float:
        self._model.load_state(parameters)
        total, count = 0.0, 0
        for first in range(0, self._samples.num_samples, BATCH):
            positions = range(first, min(first + BATCH, self._samples.num_samples))
            tokens, targets = (torch.from_numpy(array) for array in self._samples.batch(positions))
            total += float(self._model.loss(tokens, targets))
            count += int((targets >= 0).sum())
        return total / max(1, count)
