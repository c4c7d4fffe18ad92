"""Named tensors as bytes and as digests. Bytes are safetensors: names, types, shapes and numbers,
nothing that could be executed; little-endian, as all machines that PyTorch runs on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from motley.errors import PayloadError

DTYPES = {
    torch.float32: "F32",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
}
"""The types of states and payloads, as safetensors calls them."""
HEAD_ALIGNMENT = 8


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """The same bytes for the same tensors, in any order of names.

    Written here and not by the safetensors package, which copies three times and holds the
    interpreter's lock meanwhile, so that a training in another thread would stand still; `join`
    copies large buffers once and without the lock.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    table: dict[str, Any] = {}
    buffers = []
    place = 0
    for name in names:
        tensor = tensors[name].detach().contiguous()
        stop = place + tensor.numel() * tensor.element_size()
        table[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [place, stop],
        }
        buffers.append(tensor.view(-1).view(torch.uint8).numpy().data)
        place = stop
    head = json.dumps(table, separators=(",", ":")).encode()
    head += b" " * (-len(head) % HEAD_ALIGNMENT)
    return b"".join([len(head).to_bytes(8, "little"), head, *buffers])


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
