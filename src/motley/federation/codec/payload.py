"""What a payload is: a few arrays of whole numbers by name, and why one is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from motley.errors import PayloadError

Payload = dict[str, Tensor]
"""Array name to tensor of an integer type on the CPU; one set of arrays for all parameters."""
Arrays = Mapping[str, NDArray[Any]]


class ArraySpec(NamedTuple):
    """The only type and shape that an array of the payload may have."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=np.int64))


def malformed(message: str) -> PayloadError:
    return PayloadError(message, reason="malformed")


def nonfinite(message: str) -> PayloadError:
    return PayloadError(message, reason="nonfinite")


def arrays_of(payload: Mapping[str, Tensor], specs: Mapping[str, ArraySpec]) -> Arrays:
    """The payload as NumPy arrays; `PayloadError` unless names, types and shapes are these."""
    if set(payload) != set(specs):
        raise malformed(f"the payload has {sorted(payload)[:5]}, the codec writes {sorted(specs)}")
    arrays = {}
    for name, spec in specs.items():
        tensor = payload[name]
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype != spec.dtype or tuple(tensor.shape) != spec.shape:
            raise malformed(
                f"array '{name}' is {dtype} {tuple(tensor.shape)}, "
                f"the codec writes {spec.dtype} {spec.shape}"
            )
        arrays[name] = tensor.detach().contiguous().numpy()
    return arrays
