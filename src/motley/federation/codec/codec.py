"""What all codecs share: named tensors in, a payload and the error to feed back out.

Error feedback (Seide et al. 2014; Karimireddy et al., arXiv 1901.09847): what a payload leaves out
is kept at the party and added to its next update, so over the rounds the sum of what was decoded
differs from the sum of what was encoded by no more than the last residual.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from motley.federation.codec.arithmetic import fixed_order_sum
from motley.federation.codec.layout import Floats, Layout, Shapes, Slab
from motley.federation.codec.payload import (
    Arrays,
    ArraySpec,
    Payload,
    arrays_of,
    malformed,
    nonfinite,
)


class Codec(ABC):
    """Writes updates down and reads them back, the same on every machine.

    An update is `delta = local - base` by parameter name, fp32 on the CPU: what is to be *added*
    to the base. (The pseudo-gradient of the literature is its negative.)
    """

    chunk: int
    """Values that are coded together."""
    bits_per_parameter: float
    """Of a payload, without the padding of tensors to whole chunks."""

    def __init__(self, feedback_decay: float) -> None:
        self.feedback_decay = feedback_decay

    def layout(self, shapes: Shapes) -> Layout:
        """Where the values of the parameters lie among the chunks."""
        return Layout(shapes, self.chunk)

    def encode(
        self, delta: Mapping[str, Tensor], residual: Mapping[str, Tensor] | None
    ) -> tuple[Payload, dict[str, Tensor]]:
        """The payload of `delta` plus the residual, and the new residual for the same names.

        `residual` may hold more names (other fragments) or none yet; it is not changed.
        `PayloadError` if a value is not finite.
        """
        shapes = {name: tuple(tensor.shape) for name, tensor in delta.items()}
        layout = self.layout(shapes)
        arrays = {
            name: np.empty(spec.shape, dtype=spec.dtype)
            for name, spec in self.specs(layout).items()
        }
        before = {name: (residual or {}).get(name) for name in layout.names}
        held = {
            name: torch.zeros(shapes[name]) if tensor is None else tensor.clone()
            for name, tensor in before.items()
        }
        flat, errors = flat_arrays(delta), flat_arrays(held)

        def work(slab: Slab) -> None:
            values_ce = layout.gather(slab, errors) * np.float32(self.feedback_decay)
            values_ce += layout.gather(slab, flat)
            self.encode_slab(values_ce, slab, arrays)
            layout.scatter(slab, values_ce, errors)

        layout.map(work)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}, held

    def decode(self, payload: Mapping[str, Tensor], shapes: Shapes) -> dict[str, Tensor]:
        """The update that a payload stands for; `PayloadError` if it is not one of these shapes."""
        layout = self.layout(shapes)
        arrays = arrays_of(payload, self.specs(layout))
        decoded = {name: torch.empty(tuple(shapes[name])) for name in layout.names}
        flat = flat_arrays(decoded)
        layout.map(lambda slab: layout.scatter(slab, self.decode_slab(arrays, slab), flat))
        return decoded

    def squared_norm(self, payload: Mapping[str, Tensor], shapes: Shapes) -> float:
        """The squared L2 norm of the decoded update; `PayloadError` as in `decode`.

        It reads all of the payload, so it is also the check of one that came from another party.
        """
        layout = self.layout(shapes)
        arrays = arrays_of(payload, self.specs(layout))
        parts = layout.map(lambda slab: self.slab_squared_norm(arrays, slab))
        return fixed_order_sum(np.array(parts, dtype=np.float64))

    def payload_bytes(self, shapes: Shapes) -> int:
        """Bytes of the arrays of a payload; its container adds some hundreds."""
        return sum(spec.num_bytes for spec in self.specs(self.layout(shapes)).values())

    @abstractmethod
    def specs(self, layout: Layout) -> dict[str, ArraySpec]:
        """The arrays of a payload; the first axis of each is that of the chunks."""

    @abstractmethod
    def encode_slab(self, values_ce: Floats, slab: Slab, arrays: Arrays) -> None:
        """Writes a slab into its rows of the arrays and leaves the error in `values_ce`."""

    @abstractmethod
    def decode_slab(self, arrays: Arrays, slab: Slab) -> Floats:
        """The values [c, e], 0 in the padding; `PayloadError` if they are not valid."""

    @abstractmethod
    def slab_squared_norm(self, arrays: Arrays, slab: Slab) -> float:
        """Of the decoded values, in fixed order; `PayloadError` as above."""


def flat_arrays(tensors: Mapping[str, Tensor]) -> dict[str, Floats]:
    """Flat fp32 views of contiguous CPU tensors, by name."""
    return {name: tensor.detach().view(-1).numpy() for name, tensor in tensors.items()}


def require_finite(is_finite: bool) -> None:
    """`PayloadError` before a training that has diverged is published."""
    if not is_finite:
        raise nonfinite("the update is not finite: the local training has diverged")


def require(is_valid: bool, what: str) -> None:
    """`PayloadError` that says what the codec never writes."""
    if not is_valid:
        raise malformed(f"the payload has {what}")
