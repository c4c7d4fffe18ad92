"""What PyTorch's own trackers see of a training step on fake tensors: the memory model's judge.

The model is a plain eager PyTorch transformer of a `ModelConfig`'s shape, with the kernels that a
GPU would run: flash attention that keeps its log-sum-exp, RMSNorm that keeps a number per token.
Nothing is computed, so that a 70B model's step can be followed on any machine.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._composable.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed._tools.mem_tracker import MemTracker
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import functional
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.checkpoint import checkpoint

from motley.model.config import ModelConfig
from motley.model.norm import RMSNorm


class Tracked(NamedTuple):
    """Bytes of one rank at the moment when it held the most."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    moment: int
    """Gathered parameters, buffers of collectives and temporary tensors."""

    @property
    def total(self) -> int:
        return sum(self)


def norm(config: ModelConfig) -> nn.Module:
    """On a CPU torch composes RMSNorm of many operations; motley's keeps what a GPU's does."""
    if config.norm == "rmsnorm":
        return RMSNorm(config.width, config.norm_epsilon)
    return nn.LayerNorm(config.width)


class Block(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        queries = config.heads * config.head_size
        keys = config.num_key_value_heads * config.head_size
        self.widths = [queries, keys, keys]
        self.norms = nn.ModuleList([norm(config), norm(config)])
        rotary = config.positions == "rotary"
        widths = self.widths if rotary else [sum(self.widths)]
        self.inputs = nn.ModuleList(nn.Linear(config.width, n, config.bias) for n in widths)
        self.output = nn.Linear(queries, config.width, config.bias)
        self.up = nn.Linear(config.width, config.mlp_size, config.bias)
        self.gate = nn.Linear(config.width, config.mlp_size, config.bias) if config.gated else None
        self.down = nn.Linear(config.mlp_size, config.width, config.bias)

    def attention(self, x: Tensor) -> Tensor:
        """Llama's three projections, or GPT-2's one."""
        config = self.config
        shape = (*x.shape[:2], -1, config.head_size)
        parts = [part(x) for part in self.inputs]
        if len(parts) == 1:
            parts = list(parts[0].split(self.widths, -1))
        q, k, v = (part.view(shape).transpose(1, 2) for part in parts)
        if config.positions == "rotary":
            q, k = rotated(q), rotated(k)
        copies = config.heads // config.num_key_value_heads
        if copies > 1:
            k, v = k.repeat_interleave(copies, 1), v.repeat_interleave(copies, 1)
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        mixed = flash(q, k, v, 0.0, True)[0].transpose(1, 2).flatten(2)
        projected: Tensor = self.output(mixed)
        return projected

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norms[0](x))
        normed = self.norms[1](x)
        if self.gate is not None:
            hidden = functional.silu(self.gate(normed)) * self.up(normed)
        else:
            hidden = functional.gelu(self.up(normed), approximate="tanh")
        return x + self.down(hidden)


def rotated(x: Tensor) -> Tensor:
    cosine = torch.empty(x.shape[-2:], dtype=x.dtype)
    half = x.shape[-1] // 2
    return x * cosine + torch.cat((-x[..., half:], x[..., :half]), -1) * cosine


class Plain(nn.Module):
    """Embedding, blocks, head and loss."""

    def __init__(self, config: ModelConfig, *, recompute: bool) -> None:
        super().__init__()
        self.recompute = recompute
        self.token = nn.Embedding(config.vocabulary, config.width)
        learned = config.positions == "learned"
        self.position = nn.Embedding(config.context, config.width) if learned else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = norm(config)
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)
        if config.tied_head:
            self.head.weight = self.token.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens)
        if self.position is not None:
            x = x + self.position(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.recompute else block(x)
        logits = self.head(self.norm(x)).flatten(0, 1)
        return functional.cross_entropy(logits.float(), tokens.flatten())


def track(
    config: ModelConfig,
    samples: int,
    sequence_length: int,
    *,
    autocast: bool = False,
    recompute: bool = False,
    micro_batches: int = 1,
) -> Tracked:
    """The peak of a training step with fp32 parameters on one device."""
    with FakeTensorMode():
        model = Plain(config, recompute=recompute)
        optimizer = _stepped(model)
        tracker = MemTracker()
        tracker.track_external(model, optimizer)
        cast: AbstractContextManager[Any] = (
            torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext()
        )
        with tracker:
            _run(tracker, model, samples, sequence_length, micro_batches, cast)
    return _tracked(tracker)


def track_sharded(
    config: ModelConfig,
    samples: int,
    sequence_length: int,
    *,
    members: int,
    recompute: bool = False,
    micro_batches: int = 1,
) -> Tracked:
    """The peak of one of `members` ranks with FSDP2: each block, the embedding and the head are
    units, computed in bf16 and reduced in fp32, as torchtitan does it."""
    dist.init_process_group("fake", rank=0, world_size=members, store=FakeStore())
    try:
        mesh = init_device_mesh("cpu", (members,))
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        with FakeTensorMode():
            model = Plain(config, recompute=recompute)
            for unit in (*model.blocks, model.token):
                fully_shard(unit, mesh=mesh, mp_policy=policy)
            last = [model.norm, model.head]
            fully_shard(last, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
            fully_shard(model, mesh=mesh, mp_policy=policy)
            optimizer = _stepped(model)
            tracker = FSDPMemTracker(model, optimizer)
            with tracker:
                _run(tracker, model, samples, sequence_length, micro_batches, nullcontext())
        return _tracked(tracker)
    finally:
        dist.destroy_process_group()


def _stepped(model: nn.Module) -> torch.optim.Optimizer:
    """An AdamW that has its state."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=True)
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def _run(
    tracker: MemTracker,
    model: nn.Module,
    samples: int,
    sequence_length: int,
    micro_batches: int,
    cast: AbstractContextManager[Any],
) -> None:
    tokens = torch.zeros(samples, sequence_length, dtype=torch.int64)
    for _ in range(micro_batches):
        tracker.reset_mod_stats()
        with cast:
            loss = model(tokens)
        loss.backward()


def _tracked(tracker: MemTracker) -> Tracked:
    (snapshot,) = tracker.get_tracker_snapshot("peak").values()
    sizes = {str(kind).rpartition(".")[2].lower(): size for kind, size in snapshot.items()}
    total = sizes.pop("total")
    parameters = sizes.get("param", 0) + sizes.get("sharded_param", 0)
    gradients = sizes.get("grad", 0) + sizes.get("sharded_grad", 0)
    tracked = (parameters, gradients, sizes["opt"], sizes["act"])
    return Tracked(*tracked, total - sum(tracked))
