"""One stage: its layers on one chip, run layer by layer.

Each layer is its own autograd segment, so that a stage can be any range of layers, recompute any of
them, and pass on each layer's gradient as soon as it is complete. What layers pass to each other
stays apart inside the stage (`motley.model.stream`) and is joined only for its messages. Master
weights, gradients and moments are fp32; a chip that computes in 16 bits has a copy of the weights
in its own dtype, and each micro-batch's gradients are added up in fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from motley.chips.runtime import Runtime, Saved
from motley.model.config import ModelConfig
from motley.model.run import run_layer
from motley.model.stream import BALANCE, STREAM, TOKENS, reads
from motley.plan.timing.cost import LayerCost
from motley.train.message import pack, unpack
from motley.train.parameters import StageParameters

LOSS = "loss"
"""What the head gives."""


@dataclass
class _Segment:
    """One layer's part of one micro-batch, between its forward and its backward."""

    inputs: dict[str, Tensor]
    own: list[Tensor]
    """The inputs that no layer before it keeps already."""
    outputs: dict[str, Tensor] | None
    saved: Saved

    @property
    def shared(self) -> list[Tensor]:
        """The other inputs."""
        own = {id(tensor) for tensor in self.own}
        return [tensor for tensor in self.inputs.values() if id(tensor) not in own]


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
        self._after = self._layers[-1] + 1
        self._segments: dict[int, list[_Segment]] = {}
        self._output_bytes: dict[int, int] = {}

    def forward(self, micro_batch: int, stage_input: Tensor, targets: Tensor | None) -> Tensor:
        """Runs all layers; returns the next stage's message, or the summed loss if the head is
        here."""
        segments = []
        pieces = self._take(stage_input)
        kept: set[int] = set()
        """Storages that layers keep."""
        for layer in self._layers:
            segment = self._begin(layer, pieces, kept)
            outputs = self._forward_layer(layer, segment, targets)
            segments.append(segment)
            pieces |= outputs
            kept |= segment.saved.storages
            samples, length = stage_input.shape[:2]
            self._runtime.spend(self._costs(layer, length).forward_flops * samples)
        self._segments[micro_batch] = segments
        last = pieces[LOSS] if LOSS in pieces else pieces[STREAM]
        self._output_bytes[micro_batch] = _num_bytes(last)
        self._runtime.hold(self._output_bytes[micro_batch])
        return self._give(pieces)

    def _take(self, stage_input: Tensor) -> dict[str, Tensor]:
        first = self._layers[0]
        return unpack(self._config, first, stage_input) if first else {TOKENS: stage_input}

    def _give(self, pieces: Mapping[str, Tensor]) -> Tensor:
        detached = {name: piece.detach() for name, piece in pieces.items()}
        return detached[LOSS] if LOSS in pieces else pack(self._config, self._after, detached)

    def _begin(self, layer: int, pieces: Mapping[str, Tensor], kept: set[int]) -> _Segment:
        """The layer with its inputs, cut off from what made them."""
        inputs = {name: pieces[name].detach() for name in reads(self._config, layer)}
        for tensor in inputs.values():
            if tensor.is_floating_point():
                tensor.requires_grad_()
        own = [tensor for tensor in inputs.values() if _storage(tensor) not in kept]
        return _Segment(inputs, own, None, Saved())

    def _forward_layer(
        self, layer: int, segment: _Segment, targets: Tensor | None
    ) -> dict[str, Tensor]:
        if self._recompute:
            with self._runtime.saving(segment.own, segment.shared) as saved, torch.no_grad():
                outputs = self._call(layer, segment.inputs, targets)
        else:
            with self._runtime.saving(segment.own, segment.shared) as saved:
                outputs = segment.outputs = self._call(layer, segment.inputs, targets)
        segment.saved = saved
        return outputs

    def _call(
        self, layer: int, inputs: Mapping[str, Tensor], targets: Tensor | None
    ) -> dict[str, Tensor]:
        module = self._parameters.modules[layer]
        if layer == self._config.num_layers - 1:
            return {LOSS: module(inputs[STREAM], targets, inputs.get(BALANCE))}
        return run_layer(module, self._config, layer, inputs)

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
        samples, length = next(iter(segments[0].inputs.values())).shape[:2]
        self._runtime.release(self._output_bytes.pop(micro_batch))
        gradients = self._gradients(gradient)
        for layer in reversed(self._layers):
            segment = segments.pop()
            if self._recompute:
                self._recompute_layer(layer, segment, targets)
            _backward(segment, gradients)
            self._parameters.collect(layer)
            self._runtime.release(segment.saved.num_bytes)
            self._runtime.spend(self._costs(layer, length).backward_flops * samples)
            on_layer_done(layer)
        first = self._layers[0]
        return pack(self._config, first, gradients) if first else None

    def _gradients(self, gradient: Tensor) -> dict[str, Tensor]:
        """Of what the stage gave, by piece."""
        if self._after == self._config.num_layers:
            return {LOSS: gradient}
        return unpack(self._config, self._after, gradient)

    def _recompute_layer(self, layer: int, segment: _Segment, targets: Tensor | None) -> None:
        self._runtime.release(segment.saved.num_bytes)
        with self._runtime.saving(segment.own, segment.shared) as saved:
            segment.outputs = self._call(layer, segment.inputs, targets)
        segment.saved = saved

    @torch.no_grad()
    def evaluate(self, stage_input: Tensor, targets: Tensor | None) -> Tensor:
        """Forward only, nothing is kept."""
        pieces = self._take(stage_input)
        for layer in self._layers:
            pieces |= self._call(layer, pieces, targets)
            samples, length = stage_input.shape[:2]
            self._runtime.spend(self._costs(layer, length).forward_flops * samples)
        return self._give(pieces)


def _backward(segment: _Segment, gradients: dict[str, Tensor]) -> None:
    """Runs one layer backwards: the gradients of what it gave become those of what it took."""
    assert segment.outputs is not None
    # The layers behind do not read all that is given, and what begins at zero has no gradient.
    pairs = [(out, gradients.pop(name, None)) for name, out in segment.outputs.items()]
    given = [(out, grad) for out, grad in pairs if grad is not None and out.requires_grad]
    torch.autograd.backward(
        [out for out, _ in given], [gradient.to(out.dtype) for out, gradient in given]
    )
    for name, tensor in segment.inputs.items():
        if tensor.grad is None:
            continue
        if name in gradients:
            gradients[name] += tensor.grad
        else:
            gradients[name] = tensor.grad


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
