"""A stage's parameters: compute weights, fp32 masters, fp32 gradients, by name.

Gradients of one parameter group lie in one flat buffer, which is what the reduction sums. On an
fp32 chip masters and compute weights are the same tensors and autograd adds into the buffer itself.
Memory tables are fp32 on every chip and have no buffer: their gradients are sparse.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from motley.chips.runtime import Runtime
from motley.model.config import ModelConfig
from motley.model.counts import parameter_groups
from motley.model.init import initialize
from motley.model.layers import TOKEN_EMBEDDING, build_layer, parameter_name
from motley.model.table_config import TABLES
from motley.train.sparse import TableGradients


@dataclass(frozen=True)
class StageParameters:
    """All tensors are on the chip's device; dictionaries are in a fixed order."""

    modules: dict[int, nn.Module]
    """Layer to module, with weights in the chip's compute dtype."""
    compute: dict[str, nn.Parameter]
    masters: dict[str, nn.Parameter]
    gradients: dict[str, Tensor]
    """fp32, views into `buffers`."""
    buffers: dict[int, Tensor]
    """Parameter group to flat gradient."""
    layer_names: dict[int, tuple[str, ...]]
    group_names: dict[int, tuple[str, ...]]
    """Parameter group to the names in its buffer."""
    tables: TableGradients

    def collect(self, layer: int) -> None:
        """Adds the layer's gradients of one micro-batch to the fp32 sum, unless autograd did."""
        if layer == 0:
            self.tables.collect()
        for name in self.layer_names[layer]:
            parameter, total = self.compute[name], self.gradients[name]
            if parameter.grad is None or parameter.grad is total:
                continue
            is_sparse = parameter.grad.is_sparse  # of a sample of rows, which add_ does not widen
            total.add_(parameter.grad.to(total.dtype) if is_sparse else parameter.grad)
            parameter.grad = total if parameter.dtype == total.dtype else None

    def clear_gradients(self) -> None:
        for buffer in self.buffers.values():
            buffer.zero_()
        self.tables.clear()

    @torch.no_grad()
    def refresh(self) -> None:
        """Copies the masters into the compute weights after an update."""
        pairs = [
            (self.compute[name], master)
            for name, master in self.masters.items()
            if self.compute[name] is not master
        ]
        if pairs:
            torch._foreach_copy_([target for target, _ in pairs], [source for _, source in pairs])

    @property
    def num_parameters(self) -> int:
        """Outside of memory tables."""
        return sum(gradient.numel() for gradient in self.gradients.values())


def build_parameters(
    config: ModelConfig, layers: range, runtime: Runtime, seed: int
) -> StageParameters:
    """The stage's layers with freshly initialised weights: the same on any split and any chip."""
    modules: dict[int, nn.Module] = {}
    compute: dict[str, nn.Parameter] = {}
    masters: dict[str, nn.Parameter] = {}
    layer_names: dict[int, tuple[str, ...]] = {}
    for layer in layers:
        module = build_layer(config, layer)
        initialize(module, config, layer, seed)
        names = []
        for local_name, parameter in list(module.named_parameters()):
            name = parameter_name(config, layer, local_name)
            is_table = name.startswith(TABLES)
            if name not in compute:
                masters[name] = nn.Parameter(parameter.detach().to(runtime.device, torch.float32))
                dtype = torch.float32 if is_table else runtime.dtype
                compute[name] = _compute_copy(masters[name], dtype)
            _replace(module, local_name, compute[name])
            if not is_table:
                names.append(name)
        modules[layer] = module.to(runtime.device)
        layer_names[layer] = tuple(names)
    group_names = _group_names(config, layers, layer_names)
    gradients, buffers = _gradient_buffers(masters, group_names)
    _attach(masters, compute, gradients)
    tables = TableGradients({name: masters[name] for name in masters if name not in gradients})
    return StageParameters(
        modules, compute, masters, gradients, buffers, layer_names, group_names, tables
    )


def _compute_copy(master: nn.Parameter, dtype: torch.dtype) -> nn.Parameter:
    return master if dtype == torch.float32 else nn.Parameter(master.detach().to(dtype))


def _replace(module: nn.Module, local_name: str, parameter: nn.Parameter) -> None:
    path, _, leaf = local_name.rpartition(".")
    module.get_submodule(path)._parameters[leaf] = parameter


def _group_names(
    config: ModelConfig, layers: range, layer_names: dict[int, tuple[str, ...]]
) -> dict[int, tuple[str, ...]]:
    """The names in each group that the stage holds; a shared matrix has a group of its own."""
    found: dict[int, tuple[str, ...]] = {}
    for index, group in enumerate(parameter_groups(config)):
        held = [layer for layer in group.layers if layer in layers]
        if not held:
            continue
        is_shared = len(group.layers) > 1
        found[index] = tuple(
            name
            for name in layer_names[held[0]]
            if (config.tied_head and name == TOKEN_EMBEDDING) == is_shared
        )
    return found


def _gradient_buffers(
    masters: dict[str, nn.Parameter], group_names: dict[int, tuple[str, ...]]
) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
    gradients: dict[str, Tensor] = {}
    buffers: dict[int, Tensor] = {}
    for group, names in group_names.items():
        sizes = [masters[name].numel() for name in names]
        buffer = torch.zeros(sum(sizes), device=masters[names[0]].device)
        for name, piece in zip(names, torch.split(buffer, sizes), strict=True):
            gradients[name] = piece.view_as(masters[name])
        buffers[group] = buffer
    return gradients, buffers


def _attach(
    masters: dict[str, nn.Parameter],
    compute: dict[str, nn.Parameter],
    gradients: dict[str, Tensor],
) -> None:
    """Masters see their gradients; operations that add in fp32 find the sum to add to."""
    for name, gradient in gradients.items():
        master = masters[name]
        master.grad = gradient
        if compute[name] is not master:
            compute[name].grad = None
            compute[name].gradient_sum = gradient  # type: ignore[attr-defined]
