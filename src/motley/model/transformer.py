"""A whole model on one device: for one chip, for sampling, and as the reference of the tests.

model = build_transformer(PRESETS["gpt2"], seed=0)
model.loss(tokens, targets).backward()
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from motley.errors import CheckpointError
from motley.model.config import ModelConfig
from motley.model.init import initialize
from motley.model.layers import Embedding, Head, build_layer, parameter_name
from motley.model.run import run_blocks
from motley.model.stream import BALANCE, STREAM


def build_transformer(
    config: ModelConfig,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Transformer:
    """A model with the initial parameters of that seed."""
    layers = []
    for index in range(config.num_layers):
        layer = build_layer(config, index, device=device, dtype=dtype)
        initialize(layer, config, index, seed)
        layers.append(layer)
    return Transformer(config, layers)


class Transformer(nn.Module):
    """All layers of a model; a tied head shares the token embedding's parameter."""

    def __init__(self, config: ModelConfig, layers: list[nn.Module]) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(layers)
        if config.tied_head:
            self.head.token = self.embedding.token

    @property
    def embedding(self) -> Embedding:
        layer = self.layers[0]
        assert isinstance(layer, Embedding)
        return layer

    @property
    def head(self) -> Head:
        layer = self.layers[-1]
        assert isinstance(layer, Head)
        return layer

    def hidden(self, tokens_bs: Tensor) -> Tensor:
        """The residual stream [b, s, w] before the head."""
        return self._pieces(tokens_bs)[STREAM]

    def _pieces(self, tokens_bs: Tensor) -> dict[str, Tensor]:
        return run_blocks(self.config, list(self.layers), tokens_bs)

    def logits(self, tokens_bs: Tensor) -> Tensor:
        """The next token's scores [b, s, v] after each token."""
        return self.head.logits(self.hidden(tokens_bs))

    def loss(self, tokens_bs: Tensor, targets_bs: Tensor) -> Tensor:
        """The sum of the tokens' losses in nats; targets of -100 are left out."""
        pieces = self._pieces(tokens_bs)
        loss: Tensor = self.head(pieces[STREAM], targets_bs, pieces.get(BALANCE))
        return loss

    def state(self) -> dict[str, Tensor]:
        """The parameters by global name, each once; they share memory with the model."""
        return {name: parameter.detach() for name, parameter in self.named().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Copy parameters from their global names; `CheckpointError` if they are not the same."""
        parameters = self.named()
        wrong = sorted(set(parameters) ^ set(state)) or [
            name for name, own in parameters.items() if own.shape != state[name].shape
        ]
        if wrong:
            raise CheckpointError(
                f"the parameters are not those of this model: {', '.join(wrong[:3])} "
                f"({len(wrong)} in all) missing, unknown or of another shape.",
                remedy="Load the state of a model with the same configuration.",
            )
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(state[name])

    def named(self) -> dict[str, nn.Parameter]:
        """The parameters by global name, each once."""
        return {
            parameter_name(self.config, index, local_name): parameter
            for index, layer in enumerate(self.layers)
            for local_name, parameter in layer.named_parameters()
        }
