"""The optimizer of a recipe over the parameters that one rank holds: Muon, AdamW, or both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from motley.model.table_config import TABLES
from motley.optim.adamw import AdamW
from motley.optim.eight_bit import EightBitAdamW
from motley.optim.muon import Muon
from motley.optim.roles import is_orthogonalised
from motley.optim.rows import RowAdagrad
from motley.optim.sizes import FEWEST_CODED_ELEMENTS
from motley.recipe import OptimizerConfig


class Rule(Protocol):
    """What updates some of the parameters."""

    def step(self, share: float, update: int) -> None:
        """One update from the parameters' `grad`, at `share` of the peak rates; `update` counts
        those before. The gradients are used up."""

    def state(self, name: str) -> dict[str, Tensor]:
        """Live state of one parameter by kind; empty if this rank has none."""


class Optimizer:
    """All rules of one rank."""

    def __init__(self, rules: list[Rule], sole: frozenset[str] = frozenset()) -> None:
        self._rules = rules
        self.sole = sole
        """Names whose state this rank alone keeps and must save."""

    def step(self, share: float, update: int) -> None:
        """One update of all parameters: see `Rule.step`."""
        for rule in self._rules:
            rule.step(share, update)

    def state(self, name: str) -> dict[str, Tensor]:
        """Live state of one parameter by kind: what a checkpoint holds of it."""
        return {kind: tensor for rule in self._rules for kind, tensor in rule.state(name).items()}


def build_optimizer(
    masters: Mapping[str, nn.Parameter],
    config: OptimizerConfig,
    dtype: torch.dtype = torch.float32,
    *,
    table_rate: float = 0.0,
    owned: frozenset[str] = frozenset(),
    foreign: frozenset[str] = frozenset(),
    exchange: Callable[[], None] = lambda: None,
    spend: Callable[[float], None] = lambda flops: None,
) -> Optimizer:
    """The recipe's optimizer over `masters`, by global name.

    Of matrices that several ranks hold, `owned` are those whose directions this rank computes and
    `foreign` those that it gets through `exchange`; see `Muon`. `dtype` is that of the products,
    `table_rate` the peak learning rate of memory tables.
    """
    matrices = {
        name: master
        for name, master in masters.items()
        if config.orthogonalises and is_orthogonalised(name, master.shape)
    }
    tables = {name: master for name, master in masters.items() if name.startswith(TABLES)}
    others = {name: each for name, each in masters.items() if name not in {*matrices, *tables}}
    rules: list[Rule] = []
    if matrices:
        rules.append(Muon(matrices, config, dtype, foreign=foreign, exchange=exchange, spend=spend))
    rules += _adamw(others, config)
    if tables:
        rules.append(RowAdagrad(tables, table_rate))
    return Optimizer(rules, owned)


def _adamw(masters: Mapping[str, nn.Parameter], config: OptimizerConfig) -> list[Rule]:
    """AdamW with moments of the recipe's bits; of small parameters they have 32."""
    fewest = FEWEST_CODED_ELEMENTS if config.state_bits == 8 else float("inf")
    large = {name: each for name, each in masters.items() if each.numel() >= fewest}
    small = {name: each for name, each in masters.items() if name not in large}
    rules: list[Rule] = []
    if large:
        rules.append(EightBitAdamW(large, config))
    if small:
        rules.append(AdamW(small, config))
    return rules
