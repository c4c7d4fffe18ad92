"""Named tensors as bytes and as digests. Bytes are safetensors: names, types, shapes and numbers,
nothing that could be executed; little-endian, as all machines that PyTorch runs on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import safetensors
import safetensors.torch
from torch import Tensor

from motley.errors import PayloadError


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """The same bytes for the same tensors, in any order of names."""
    ordered = {name: tensors[name].contiguous() for name in sorted(tensors)}
    data: bytes = safetensors.torch.save(ordered)
    return data


def unpack(data: bytes) -> dict[str, Tensor]:
    """What `pack` was given; `PayloadError` if the bytes are no safetensors."""
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as cause:
        raise PayloadError(f"no safetensors: {str(cause)[:200]}.", reason="malformed") from None
    return tensors


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 of type, shape and bytes."""
    head = json.dumps([str(tensor.dtype), list(tensor.shape)])
    digest = hashlib.sha256(head.encode())
    digest.update(tensor.detach().contiguous().view(-1).numpy().view("uint8").data)
    return digest.hexdigest()


def combined_digest(digests: Mapping[str, str]) -> str:
    """SHA-256 of named digests, in the order of the names."""
    text = json.dumps(sorted(digests.items()), separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
