"""The software that trains: which kernels it runs, what it keeps, and what it overlaps.

The same chip gives another step time under other software. A `Stack` says what is known of a
generation of a framework; nothing in it belongs to a model, a chip or a cluster. `MOTLEY` is what
the trainer does and the default everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from motley.chips.constants import CONSTANTS, Constants
from motley.plan.memory.footprint import (
    DEEPSPEED_2021_FOOTPRINT,
    DEEPSPEED_BF16_FOOTPRINT,
    DEEPSPEED_FOOTPRINT,
    LLM_C_FOOTPRINT,
    LLM_FOUNDRY_FOOTPRINT,
    MAXTEXT_FOOTPRINT,
    MEGATRON_2021_FOOTPRINT,
    MEGATRON_FOOTPRINT,
    MOTLEY_FOOTPRINT,
    NANOGPT_FOOTPRINT,
    PYTORCH_FOOTPRINT,
    TORCHTITAN_FOOTPRINT,
    Footprint,
)

DDP_BUCKET_BYTES = 25 * 2**20
"""Of PyTorch's distributed data parallel (arXiv 2006.15704)."""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """What a time or memory model needs to know of a training framework."""

    name: str
    attention: Literal["flash", "unfused"] = "flash"
    """Whether scores are kept in memory ("unfused") or never leave the chip (arXiv 2205.14135)."""
    flash_generation: Literal[1, 2, 3] = 2
    """Of the flash attention kernel (arXiv 2205.14135, 2307.08691, 2407.08608)."""
    fp8_scaling: Literal["tensor", "row", "fused"] = "tensor"
    """Of products in fp8: one scale for each matrix, one for each row, or one for each matrix that
    the kernel before has found and applied (Transformer Engine)."""
    fused: bool = False
    """Pointwise operations of one place run as one kernel, compiled or written by hand."""
    fused_loss: bool = False
    """The loss passes over the logits once each way."""
    softmax: Literal["fused", "eager", "eager-fp32"] = "fused"
    """Scale, mask and softmax of unfused attention: one kernel, or several in 16 or 32 bits."""
    dropout: bool = False
    """Trains with dropout, as GPT-2 did: passes over the stream and over unfused scores."""
    sequence_parallel: bool = False
    """Chips of a tensor group share out the norms too (arXiv 2205.05198)."""
    selective: Literal["attention", "half"] = "attention"
    """What "selective" recompute repeats: the attention's core, or every second matmul or layer."""
    stops_early: bool = False
    """Full recompute ends when all that the backward pass needs is there: a layer's last product is
    not repeated (torch.utils.checkpoint without reentrance, from PyTorch 2.1 on)."""
    overlap_data: bool = True
    """Gradients and sharded parameters travel while layers compute."""
    exchange_slows: bool = False
    """Collectives run on the chips' own compute units, so that those of gradients slow the passes
    beside them; motley's between unlike chips run on the host."""
    overlap_tensor: Literal["none", "async", "ring"] = "none"
    """How messages of tensor parallelism travel while matmuls compute: as asynchronous TP, or round
    in as many pieces as chips share a layer, all but the first under the products (Transformer
    Engine's user buffers)."""
    blocking_sends: bool = False
    """A message between stages holds up the chip that sends it until it has arrived."""
    tied_in_pairs: bool = False
    """First and last stage of each copy of a model add up the gradient of a tied head between the
    two of them, and then the copies add up theirs; else all of them do it at once."""
    balance: Literal["blocks", "layers"] = "blocks"
    """What pipeline stages get equal numbers of: blocks, or, where those do not come out even and
    these do, layers with embedding and head."""
    parameter_bytes: int = 2
    """Of one parameter as layers read it; 4 where the training is in fp32."""
    gradient_bytes: int = 4
    """Of one kept gradient, to which those of the micro-batches are added."""
    exchange_bytes: int = 4
    """Of one gradient while replicas add them up."""
    bucket_bytes: float | None = None
    """Most bytes of gradients, as if in fp32, that replicas add up in one message; None: motley's
    own size."""
    optimizer_bytes: int = 30
    """Memory traffic of the optimizer per parameter and step. AdamW with fp32 state reads gradient,
    master and two moments (16), writes master and moments (12) and the 2-byte copy (2)."""
    always_shards: bool = False
    """Replicas share out the optimizer's state whatever the settings say."""
    footprint: Footprint = MOTLEY_FOOTPRINT
    """What it keeps in memory."""
    constants: Constants = field(default=CONSTANTS, compare=False)
    """The measured habits of kernels and networks that are common to all software."""


MOTLEY = Stack(name="motley", sequence_parallel=True)
"""motley's own trainer; of tensor groups, which it does not run yet, what is usual."""

MEGATRON_2021 = Stack(
    name="megatron-2021",
    attention="unfused",
    fused=True,
    dropout=True,
    overlap_data=False,
    blocking_sends=True,
    tied_in_pairs=True,
    bucket_bytes=math.inf,
    gradient_bytes=2,
    exchange_bytes=2,
    footprint=MEGATRON_2021_FOOTPRINT,
)
"""Megatron-LM up to version 2.6 (arXiv 2104.04473): unfused attention, fused softmax and
bias-dropout kernels, gradients in 16 bits, summed after the backward pass from one buffer."""

MEGATRON_DEEPSPEED = replace(
    MEGATRON_2021,
    name="megatron-deepspeed",
    balance="layers",
    gradient_bytes=2,
    exchange_bytes=2,
    footprint=DEEPSPEED_2021_FOOTPRINT,
)
"""Megatron-LM's model under DeepSpeed's engine of 2021-2022 (AMP, BLOOM): 16-bit gradients."""

MEGATRON_DEEPSPEED_BF16 = replace(
    MEGATRON_DEEPSPEED,
    name="megatron-deepspeed-bf16",
    gradient_bytes=4,
    always_shards=True,
    footprint=DEEPSPEED_BF16_FOOTPRINT,
)
"""The same with DeepSpeed's bf16 optimizer (BLOOM, from the end of February 2022 on): fp32
gradients beside the 16-bit ones; it shares out its state even as "ZeRO 0"."""

MEGATRON_DEEPSPEED_2020 = replace(
    MEGATRON_DEEPSPEED,
    name="megatron-deepspeed-2020",
    softmax="eager",
    balance="blocks",
    fused=False,
)
"""DeepSpeed's 3D-parallel example on Megatron-LM 1.1.5, which AMP ran: no fused softmax."""

MEGATRON = Stack(
    name="megatron",
    fp8_scaling="fused",
    sequence_parallel=True,
    fused=True,
    exchange_slows=True,
    blocking_sends=True,
    tied_in_pairs=True,
    bucket_bytes=1.6e8,
    footprint=MEGATRON_FOOTPRINT,
)
"""Megatron-Core with flash attention, fused kernels, sequence parallelism and buckets of 40 million
gradients."""

NEMO = replace(
    MEGATRON,
    name="nemo",
    flash_generation=3,
    overlap_tensor="ring",
    blocking_sends=False,
    gradient_bytes=2,
    exchange_bytes=2,
)
"""NVIDIA NeMo of 2024 and later on Megatron-Core and Transformer Engine: cuDNN's attention, 16-bit
gradients, messages of tensor parallelism and between stages under the products (its performance
guide)."""

DEEPSPEED = Stack(
    name="deepspeed",
    exchange_slows=True,
    blocking_sends=True,
    bucket_bytes=2e9,
    exchange_bytes=2,
    gradient_bytes=4,
    footprint=DEEPSPEED_FOOTPRINT,
)
"""DeepSpeed ZeRO with a Hugging Face model: eager pointwise operations, flash attention, buckets of
500 million gradients."""

LLM_FOUNDRY = Stack(
    name="llm-foundry",
    fp8_scaling="fused",
    flash_generation=1,
    exchange_slows=True,
    blocking_sends=True,
    bucket_bytes=DDP_BUCKET_BYTES,
    stops_early=True,
    exchange_bytes=2,
    footprint=LLM_FOUNDRY_FOOTPRINT,
)
"""MosaicML LLM Foundry 2023: FSDP, Triton flash attention, eager pointwise operations."""

TORCHTITAN = Stack(
    name="torchtitan",
    sequence_parallel=True,
    fused=True,
    fused_loss=True,
    selective="half",
    stops_early=True,
    exchange_slows=True,
    blocking_sends=True,
    bucket_bytes=DDP_BUCKET_BYTES,
    exchange_bytes=4,
    footprint=TORCHTITAN_FOOTPRINT,
)
"""PyTorch FSDP2 with torch.compile, as torchtitan and fms-fsdp run it."""

TORCHTITAN_EAGER = replace(TORCHTITAN, name="torchtitan-eager", fused=False, fused_loss=False)
"""The same without torch.compile."""

MAXTEXT = replace(TORCHTITAN_EAGER, name="maxtext", footprint=MAXTEXT_FOOTPRINT)
"""JAX on TPUs and GPUs (MaxText, Pax, Levanter). XLA compiles the whole step, and its policies of
what to keep repeat pointwise work, so that it passes over memory about as often as eager code."""

NANOGPT = Stack(
    name="nanogpt",
    exchange_slows=True,
    blocking_sends=True,
    bucket_bytes=DDP_BUCKET_BYTES,
    fused=True,
    fused_loss=True,
    stops_early=True,
    exchange_bytes=4,
    footprint=NANOGPT_FOOTPRINT,
)
"""nanoGPT and its kind: torch.compile, DDP."""

PYTORCH = replace(
    NANOGPT, name="pytorch", fused=False, fused_loss=False, footprint=PYTORCH_FOOTPRINT
)
"""A loop of plain PyTorch: eager layers under autocast, DDP."""

LLM_C = replace(
    NANOGPT,
    name="llm.c",
    gradient_bytes=2,
    exchange_bytes=2,
    footprint=LLM_C_FOOTPRINT,
)
"""llm.c and its kind: kernels by hand for GPT-2, cuDNN's attention, 16-bit gradients."""

SAILOR = replace(
    MEGATRON_2021,
    name="sailor",
    softmax="eager-fp32",
    fused=False,
)
"""The research trainer of Sailor (SOSP 2025): Megatron-DeepSpeed's split of an eager OPT model. Its
published peaks of memory are those of 16-bit activations with kept scores."""

STACKS: dict[str, Stack] = {
    stack.name: stack
    for stack in (
        MOTLEY, MEGATRON_2021, MEGATRON_DEEPSPEED, MEGATRON_DEEPSPEED_2020,
        MEGATRON_DEEPSPEED_BF16, MEGATRON, NEMO, DEEPSPEED, LLM_FOUNDRY, TORCHTITAN,
        TORCHTITAN_EAGER, MAXTEXT, NANOGPT, PYTORCH, LLM_C, SAILOR,
    )
}  # fmt: skip
"""By name."""
