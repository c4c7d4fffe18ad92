"""The blocks' matrices that Muon orthogonalises, from the model's shape alone, without torch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from motley.model.config import ModelConfig
from motley.model.products import layer_products
from motley.optim.products import orthogonal_flops
from motley.optim.roles import is_orthogonalised
from motley.recipe import OptimizerConfig


class Matrix(NamedTuple):
    """A parameter [outputs, inputs] of a block."""

    name: str
    layer: int
    outputs: int
    inputs: int

    @property
    def size(self) -> int:
        return self.outputs * self.inputs

    def flops(self, config: OptimizerConfig, element_bytes: int) -> float:
        """Of orthogonalising it once, with products in so many bytes."""
        return orthogonal_flops(
            self.outputs, self.inputs, config.orthogonal_iterations, element_bytes
        )


@lru_cache(maxsize=64)
def orthogonal_matrices(model: ModelConfig) -> tuple[Matrix, ...]:
    """All matrices of the model that are under Muon if the recipe asks for it, in layer order."""
    return tuple(_matrices(model))


def _matrices(model: ModelConfig) -> Iterator[Matrix]:
    for layer in range(1, model.num_layers - 1):
        for product in layer_products(model, layer):
            for local_name in product.names:
                name = f"blocks.{layer - 1}.{local_name}.weight"
                if is_orthogonalised(name, (product.out_width, product.in_width)):
                    yield Matrix(name, layer, product.out_width, product.in_width)
