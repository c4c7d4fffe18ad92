"""One stage: its layers on one chip, run layer by layer.

Each layer is its own autograd segment, so that a stage can be any range of layers, recompute any of
them, and pass on each layer's gradient as soon as it is complete. Master weights, gradients and
moments are fp32; a chip that computes in 16 bits has a copy of the weights in its own dtype, and
each micro-batch's gradients are added up in fp32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from motley.chips.runtime import Runtime, Saved
from motley.model.config import ModelConfig
from motley.plan.cost import LayerCost
from motley.train.parameters import StageParameters


@dataclass
class _Segment:
    """One layer's part of one micro-batch, between its forward and its backward."""

    layer_input: Tensor
    output: Tensor | None
    saved: Saved


class StageRunner:
    """Runs the forward and backward passes of one stage."""

    def __init__(
        self,
        config: ModelConfig,
        runtime: Runtime,
        parameters: StageParameters,
        costs: Callable[[int, int], LayerCost],
        *,
        recompute: bool,
    ) -> None:
        self._config = config
        self._runtime = runtime
        self._parameters = parameters
        self._costs = costs
        """Of a layer, by the length of sequences."""
        self._recompute = recompute
        self._layers = sorted(parameters.modules)
        self._segments: dict[int, list[_Segment]] = {}
        self._output_bytes: dict[int, int] = {}

    def forward(self, micro_batch: int, stage_input: Tensor, targets: Tensor | None) -> Tensor:
        """Runs all layers; returns the activations, or the summed loss if the head is here."""
        segments = []
        current = stage_input
        for layer in self._layers:
            layer_input = current.detach()
            if layer_input.is_floating_point():
                layer_input.requires_grad_()
            segment = self._forward_layer(layer, layer_input, targets)
            segments.append(segment)
            assert segment.output is not None
            current = segment.output
            if self._recompute:
                segment.output = None
            samples, length = stage_input.shape[:2]
            self._runtime.spend(self._costs(layer, length).forward_flops * samples)
        self._segments[micro_batch] = segments
        self._output_bytes[micro_batch] = _num_bytes(current)
        self._runtime.hold(self._output_bytes[micro_batch])
        return current.detach()

    def _forward_layer(self, layer: int, layer_input: Tensor, targets: Tensor | None) -> _Segment:
        if self._recompute:
            self._runtime.hold(_num_bytes(layer_input))
            with torch.no_grad():
                output = self._call(layer, layer_input, targets)
            return _Segment(layer_input, output, Saved(_num_bytes(layer_input)))
        with self._runtime.saving(layer_input) as saved:
            output = self._call(layer, layer_input, targets)
        return _Segment(layer_input, output, saved)

    def _call(self, layer: int, layer_input: Tensor, targets: Tensor | None) -> Tensor:
        module = self._parameters.modules[layer]
        is_head = layer == self._config.num_layers - 1
        output: Tensor = module(layer_input, targets) if is_head else module(layer_input)
        return output

    def backward(
        self,
        micro_batch: int,
        gradient: Tensor,
        targets: Tensor | None,
        on_layer_done: Callable[[int], None],
    ) -> Tensor | None:
        """Runs all layers backwards from the gradient of the stage's output.

        `on_layer_done(layer)` is called when the layer's parameter gradients of this micro-batch
        are added up. Returns the gradient of the stage's input; None if that is the tokens.
        """
        segments = self._segments.pop(micro_batch)
        samples, length = segments[0].layer_input.shape[:2]
        self._runtime.release(self._output_bytes.pop(micro_batch))
        current: Tensor | None = gradient
        for layer in reversed(self._layers):
            segment = segments.pop()
            if self._recompute:
                self._recompute_layer(layer, segment, targets)
            assert segment.output is not None
            assert current is not None
            torch.autograd.backward(segment.output, current.to(segment.output.dtype))
            self._parameters.collect(layer)
            current = segment.layer_input.grad
            self._runtime.release(segment.saved.num_bytes)
            self._runtime.spend(self._costs(layer, length).backward_flops * samples)
            on_layer_done(layer)
        return current

    def _recompute_layer(self, layer: int, segment: _Segment, targets: Tensor | None) -> None:
        self._runtime.release(segment.saved.num_bytes)
        with self._runtime.saving(segment.layer_input) as saved:
            segment.output = self._call(layer, segment.layer_input, targets)
        segment.saved = saved

    @torch.no_grad()
    def evaluate(self, stage_input: Tensor, targets: Tensor | None) -> Tensor:
        """Forward only, nothing is kept."""
        current = stage_input
        for layer in self._layers:
            current = self._call(layer, current, targets)
            samples, length = stage_input.shape[:2]
            self._runtime.spend(self._costs(layer, length).forward_flops * samples)
        return current


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
