"""The parameters that a stage holds, and how many of them lie on each of its chips."""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

from motley.model.config import ModelConfig
from motley.model.counts import ParameterGroup, parameter_groups
from motley.model.products import layer_products
from motley.plan.layout import Layout


class Held(NamedTuple):
    """Parameters of some layers by how a group of chips shares them."""

    split: float = 0.0
    """Matrices that tensor parallelism splits."""
    whole: float = 0.0
    """Norms, positions and small matrices: on every chip."""
    experts: float = 0.0

    def __add__(self, other: object) -> Held:
        assert isinstance(other, Held)
        return Held(*(mine + its for mine, its in zip(self, other, strict=True)))

    def dense_on_chip(self, layout: Layout) -> float:
        """Parameters outside of experts on one chip, before any sharding among members."""
        return self.split / layout.tensor + self.whole

    def experts_on_chip(self, layout: Layout) -> float:
        """Parameters of experts on one chip, likewise."""
        return self.experts / (layout.expert * expert_tensor(layout))

    def on_chip(self, layout: Layout) -> float:
        return self.dense_on_chip(layout) + self.experts_on_chip(layout)

    def share(self, layout: Layout) -> float:
        """What one chip holds where all that have the same share it out among themselves."""
        alike = max(1, layout.num_chips // (layout.expert * expert_tensor(layout)))
        return self.dense_on_chip(layout) / layout.data + self.experts_on_chip(layout) / alike


def expert_tensor(layout: Layout) -> int:
    """Chips over which each expert is split: fewer than the tensor degree where the experts are
    spread over so many chips that they take from it."""
    return max(1, min(layout.tensor, layout.num_chips // layout.expert))


@lru_cache(maxsize=64)
def groups_of(config: ModelConfig) -> tuple[ParameterGroup, ...]:
    """`parameter_groups`, remembered."""
    return parameter_groups(config)


class _Table(NamedTuple):
    """The groups of a model, by layer."""

    before: tuple[Held, ...]
    """What the layers before each one have of their own."""
    own: tuple[int, ...]
    """Parameters of each layer's own."""
    shared: tuple[ParameterGroup, ...]
    """Groups that several layers use."""


def held_parameters(config: ModelConfig, first_layer: int, last_layer: int) -> int:
    """Parameters that a stage holds; one that two of its layers share counts once."""
    return round(sum(held_in_stage(config, first_layer, last_layer)))


@lru_cache(maxsize=65536)
def held_in_stage(config: ModelConfig, first_layer: int, last_layer: int) -> Held:
    """The same by how they are shared; one that two of the layers share counts once."""
    table = _table(config)
    pairs = zip(table.before[last_layer], table.before[first_layer], strict=True)
    own = Held(*(after - before for after, before in pairs))
    return own._replace(split=own.split + sum(_shared(table, first_layer, last_layer)))


@lru_cache(maxsize=4096)
def held_in_layer(config: ModelConfig, layer: int) -> Held:
    """All that one layer computes with."""
    return held_in_stage(config, layer, layer + 1)


def largest_group(config: ModelConfig, first_layer: int, last_layer: int) -> int:
    """Parameters of the stage's largest group."""
    table = _table(config)
    shared = _shared(table, first_layer, last_layer)
    return max(*table.own[first_layer:last_layer], *shared, 0)


def _shared(table: _Table, first: int, last: int) -> list[int]:
    return [
        group.num_parameters
        for group in table.shared
        if any(first <= layer < last for layer in group.layers)
    ]


@lru_cache(maxsize=64)
def _table(config: ModelConfig) -> _Table:
    own, held = [0] * config.num_layers, [Held()] * config.num_layers
    for group in groups_of(config):
        if len(group.layers) == 1:
            (layer,) = group.layers
            own[layer] = group.num_parameters
            held[layer] = _held_in_group(config, layer, group.num_parameters)
    return _Table(
        before=tuple(accumulate(held, initial=Held())),
        own=tuple(own),
        shared=tuple(group for group in groups_of(config) if len(group.layers) > 1),
    )


def _held_in_group(config: ModelConfig, layer: int, num_parameters: int) -> Held:
    """Of what one layer has of its own."""
    products = layer_products(config, layer)
    experts = sum(product.parameters for product in products if product.experts > 1)
    split = sum(
        product.parameters
        for product in products
        if product.experts == 1 and product.sharded_by_tensor != "none"
    )
    if not config.tied_head and layer == 0:
        split += config.vocabulary * config.embedding_size
    elif config.tied_head and layer == config.num_layers - 1:
        split -= config.vocabulary * config.embedding_size
    return Held(split, num_parameters - split - experts, experts)
