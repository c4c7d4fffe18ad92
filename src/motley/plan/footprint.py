"""What a training framework keeps in memory besides what its `Stack` says of kernels and formats.

Every field is a habit that can be read in a framework's code or seen with PyTorch's trackers;
none belongs to a model, a chip or a run. `MOTLEY_FOOTPRINT` is the trainer's own.
"""

from __future__ import annotations

from dataclasses import dataclass

MARGIN = 0.03
"""Added to what motley's trainer is predicted to allocate: allocators round up and fragment."""

CACHING_MARGIN = 0.06
"""The same for frameworks that leave PyTorch's caching allocator as it is: what it reserves over
what is allocated, on published peaks (see docs/planner-memory.md)."""

CONTEXT_BYTES = 1.2e9
"""Of a CUDA process before its first tensor: context, kernels, cuBLAS and cuDNN workspaces. 0.3 GB
on a V100 to 0.6 GB on an H100 for the context, the rest is loaded kernels and workspaces."""

COMMUNICATOR_BYTES = 0.6e9
"""Of one NCCL communicator: for each of up to 32 channels send and receive buffers of three
protocols (4 MiB, 0.6 MiB and 1.9 MiB in NCCL 2.x) for ring and tree."""


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes are per parameter, per logit or per chip as the name says."""

    chunked_loss: bool = False
    """The loss never holds all logits; its chunks are those of motley's own head."""
    logit_bytes: float = 12.0
    """Per logit at the loss's peak. PyTorch's cross entropy in fp32 holds the log-softmax, its
    gradient and the gradient of the logits."""
    repeats_gate: bool = False
    """The activated gate of a gated MLP is computed again in the backward pass, not kept."""
    expands_key_values: bool = True
    """Keys and values of grouped queries are copied for each query head."""
    wide_stream: bool = False
    """The residual stream is in fp32 (autocast of a model with fp32 parameters)."""
    extra_gradient_bytes: int = 0
    """Per parameter: a 16-bit gradient that is kept beside the one to which it is added."""
    gradients_stay: bool = True
    """Gradients have their memory all the time. Otherwise they are freed after each step, and with
    one micro-batch a step they are not there yet when activations are at their peak."""
    splits_gradients: bool = False
    """With a sharded optimizer each member keeps only its share of the gradients (ZeRO-2)."""
    exchange_copy_bytes: int = 0
    """Per parameter: copies of all gradients while they are reduced, after the last backward."""
    step_bytes: int = 0
    """Per parameter that a chip updates: what the optimizer takes for the time of its step."""
    bucket_bytes: float | None = 0.0
    """Most of the buffers in which gradients or parameters travel, in all; None: motley's own."""
    edge_bytes: float = 4.0
    """Per element of what passes between two stages, for all its messages under way at once: one of
    16 bits in each direction."""
    keeps_root: bool = False
    """Fully-sharded: embedding and head stay gathered for the whole step (FSDP1's root unit)."""
    keeps_pipeline_gathered: bool = False
    """Fully-sharded inside a pipeline: parameters stay gathered and gradients whole over all
    micro-batches of a step."""
    margin: float = CACHING_MARGIN
    """Share added to all that is allocated."""
    context_bytes: float = CONTEXT_BYTES
    """Per chip, outside PyTorch's allocator."""
    communicator_bytes: float = COMMUNICATOR_BYTES
    """Per group of chips that a chip communicates in."""


MOTLEY_FOOTPRINT = Footprint(
    chunked_loss=True,
    repeats_gate=True,
    expands_key_values=False,
    bucket_bytes=None,
    edge_bytes=16.0,
    margin=MARGIN,
    context_bytes=0.0,
    communicator_bytes=0.0,
)
"""motley's trainer: up to two messages under way in each direction of a boundary, in fp32 where the
chips' formats differ. A chip's `memory_bytes` are what is free after the device's context."""

MEGATRON_2021_FOOTPRINT = Footprint(logit_bytes=10.0)
"""Megatron-LM 2.x: 16-bit logits, their fp32 copy and the exponentials of the vocabulary-parallel
loss; fp32 main gradients."""

MEGATRON_FOOTPRINT = Footprint(logit_bytes=10.0, repeats_gate=True, expands_key_values=False)
"""Megatron-Core with flash attention and fused kernels."""

DEEPSPEED_2021_FOOTPRINT = Footprint(logit_bytes=14.0, exchange_copy_bytes=4, step_bytes=4)
"""Megatron-LM's model under DeepSpeed's pipeline engine: the loss is one function over all logits;
gradients are flattened for the exchange, and the step has an fp32 copy of its share."""

DEEPSPEED_BF16_FOOTPRINT = Footprint(
    logit_bytes=14.0, extra_gradient_bytes=2, exchange_copy_bytes=0, step_bytes=4
)
"""DeepSpeed's bf16 optimizer: fp32 gradients beside the 16-bit ones."""

DEEPSPEED_FOOTPRINT = Footprint(splits_gradients=True, step_bytes=4, bucket_bytes=2e9)
"""DeepSpeed ZeRO-2 and 3 with a Hugging Face model; buckets of 5e8 elements, two at a time."""

LLM_FOUNDRY_FOOTPRINT = Footprint(gradients_stay=False, keeps_root=True)
"""LLM Foundry 2023: FSDP1 whose root unit holds the tied embedding."""

TORCHTITAN_FOOTPRINT = Footprint(gradients_stay=False, keeps_pipeline_gathered=True)
"""torchtitan: FSDP2, eager cross entropy in fp32."""

NANOGPT_FOOTPRINT = Footprint(gradients_stay=False, wide_stream=True)
"""A plain loop with autocast over fp32 parameters."""
