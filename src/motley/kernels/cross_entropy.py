"""Softmax cross-entropy of logits, which turns into their gradient in place."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from motley.kernels import native

CHUNK_ROWS = 1024
"""Rows whose logits exist at one time: they stay in the cache of the cores."""


def cross_entropy_(logits: Tensor, targets: Tensor) -> Tensor:
    """Each row's loss in nats, fp32 [n]; `logits` [n, v] bf16 become the gradient of their sum.

    A negative target has no loss and no gradient. IndexError for one that is no column of `logits`.
    """
    if targets.numel() and int(targets.max()) >= logits.shape[1]:
        raise IndexError(f"target {int(targets.max())}: there are {logits.shape[1]} classes")
    losses = logits.new_empty(logits.shape[0], dtype=torch.float32)
    native.library().motley_cross_entropy(
        native.pointer(logits),
        native.pointer(targets),
        native.pointer(losses),
        native.size(logits.shape[0]),
        native.size(logits.shape[1]),
        ctypes.c_float(1.0),
        torch.get_num_threads(),
    )
    return losses
