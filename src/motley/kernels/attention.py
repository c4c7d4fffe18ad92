"""Causal attention that is fast on CPUs with AMX and falls back to PyTorch's elsewhere."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from motley.kernels import native


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention in which each position sees itself and those before it.

    q is [batch, heads, seq, head_width]; k and v may have fewer heads (grouped queries). The native
    result is stored as [batch, seq, heads, head_width], so that merging the heads again is free.
    """
    if _native(q, k, v):
        result: Tensor = native.apply(_Attention, *(_rows_contiguous(x) for x in (q, k, v)))
        return result
    grouped = q.shape[1] != k.shape[1]
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)


def causal_attention_packed(qkv: Tensor, heads: int, kv_heads: int) -> Tensor:
    """Attention on one projection's result: [batch, seq, (heads + 2 kv_heads) * head_width].

    Returns [batch, seq, heads * head_width]. The gradient is written straight into one tensor of
    qkv's layout, which spares the joining of three gradients.
    """
    batch, seq, _ = qkv.shape
    if _native(qkv):
        result: Tensor = native.apply(_PackedAttention, qkv.contiguous(), heads, kv_heads)
        return result
    q, k, v = _split(qkv, heads, kv_heads)
    return causal_attention(q, k, v).transpose(1, 2).reshape(batch, seq, -1)


def _native(q: Tensor, *others: Tensor) -> bool:
    """Whether the kernels can take these; what they cannot is PyTorch's, and its to refuse."""
    same = all((q.shape[0], *q.shape[-2:]) == (x.shape[0], *x.shape[-2:]) for x in others)
    grouped = all(x.shape[1] > 0 and q.shape[1] % x.shape[1] == 0 for x in others)
    return same and grouped and q.numel() > 0 and native.usable(q, *others)


def _rows_contiguous(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _split(qkv: Tensor, heads: int, kv_heads: int) -> tuple[Tensor, ...]:
    """Views of the queries, keys and values as [batch, heads, seq, head_width]."""
    batch, seq, _ = qkv.shape
    parts = qkv.view(batch, seq, heads + 2 * kv_heads, -1).transpose(1, 2)
    values = heads + kv_heads
    return parts[:, :heads], parts[:, heads:values], parts[:, values:]


def _empty_like_heads(x: Tensor) -> Tensor:
    """An empty [batch, heads, seq, width] tensor; the heads of one position are adjacent."""
    batch, heads, seq, width = x.shape
    return x.new_empty(batch, seq, heads, width).transpose(1, 2)


def _call(function: Any, tensors: list[Tensor], log_sums: Tensor) -> None:
    """Calls a kernel on [batch, heads, seq, width] tensors, the first two being q and k."""
    batch, heads, seq, width = tensors[0].shape
    strides = [step for t in tensors for step in t.stride()[:3]]
    shape = (batch, heads, tensors[1].shape[1], seq, width)
    function(
        native.sizes(shape),
        ctypes.c_float(width**-0.5),
        native.pointers(tensors),
        native.sizes(strides),
        native.pointer(log_sums),
        torch.get_num_threads(),
    )


def _forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    out = _empty_like_heads(q)
    log_sums = q.new_empty(q.shape[:3], dtype=torch.float32)
    _call(native.library().motley_attention_forward, [q, k, v, out], log_sums)
    return out, log_sums


def _backward(saved: list[Tensor], log_sums: Tensor, results: list[Tensor]) -> None:
    _call(native.library().motley_attention_backward, saved + results, log_sums)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out, log_sums = _forward(q, k, v)
        ctx.save_for_backward(q, k, v, out, log_sums)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        *saved, log_sums = ctx.saved_tensors
        results = [_empty_like_heads(x) for x in saved[:3]]
        _backward([*saved, _rows_contiguous(grad)], log_sums, results)
        return tuple(results)


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int, kv_heads: int) -> Tensor:
        out, log_sums = _forward(*_split(qkv, heads, kv_heads))
        ctx.save_for_backward(qkv, out, log_sums)
        ctx.heads = heads, kv_heads
        return out.transpose(1, 2).flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        qkv, out, log_sums = ctx.saved_tensors
        result = torch.empty_like(qkv)
        heads_grad = grad.contiguous().view(out.transpose(1, 2).shape).transpose(1, 2)
        _backward(
            [*_split(qkv, *ctx.heads), out, heads_grad], log_sums, list(_split(result, *ctx.heads))
        )
        return result, None, None
