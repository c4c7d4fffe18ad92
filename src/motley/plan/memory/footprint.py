"""What a training framework keeps in memory besides what its `Stack` says of kernels and formats.

Every field is a habit that can be read in a framework's code or seen with PyTorch's trackers;
none belongs to a model, a chip or a run. `MOTLEY_FOOTPRINT` is the trainer's own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

MARGIN = 0.03
"""Added to all that is allocated: allocators round up and fragment."""

CACHING_MARGIN = 0.05
"""The same for PyTorch's caching allocator as it is, whose blocks of a few MiB to GiB leave more
behind that nothing fits into."""

CONTEXT_BYTES = 0.7e9
"""Of a CUDA process before its first tensor: 0.3 GB on a V100 to 0.6 GB on an H100 for the context,
the rest for loaded kernels and the workspaces of cuBLAS and cuDNN."""

CHANNEL_BYTES_PER_S = 12.5e9
"""What one channel of NCCL is set up to carry: NVLink 2 has 12, NVLink 3 24, PCIe 2."""

CHANNEL_BYTES = 10e6
"""Buffers of one channel for one algorithm: both directions and three protocols (4 MiB, 0.6 MiB and
about 0.3 MiB a slot), with what NCCL allocates around them."""

SWITCHED_BYTES_PER_S = 400e9
"""From here on (NVLink 4) NCCL adds a third algorithm to ring and tree, with the switches' help."""


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes are per parameter, per logit or per chip as the name says."""

    chunked_loss: bool = False
    """The loss never holds all logits; its chunks are those of motley's own head."""
    logit_bytes: float = 12.0
    """Per logit at the loss's peak. PyTorch's cross entropy in fp32 holds the log-softmax, its
    gradient and the gradient of the logits."""
    split_logit_bytes: float = 12.0
    """The same where tensor parallelism splits the vocabulary."""
    freed_logit_bytes: float = 0.0
    """Per logit: freed before that peak, in a block that fits no later tensor and so stays with the
    allocator as long as there is room."""
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
    step_bytes: int = 0
    """Per parameter that a chip updates: what the optimizer takes for the time of its step."""
    bucket_bytes: float | None = 0.0
    """Most of the buffers in which gradients or parameters travel, in all; None: motley's own."""
    edge_bytes: float = 4.0
    """Per element of what passes between two stages, for all its messages under way at once: one of
    16 bits in each direction."""
    keeps_root: bool = False
    """Fully-sharded: embedding and head stay gathered for the whole step (FSDP1's root unit)."""
    margin: float = CACHING_MARGIN
    """Share of all that is allocated."""
    cached_share: float = 0.03
    """The same, of what PyTorch's caching allocator holds besides as long as there is room. It
    gives that back before it fails, so it decides nothing."""
    has_context: bool = True
    """The chip's memory is counted from its datasheet, so the device's context must fit too, and
    communicators also where each stage has one chip."""


MOTLEY_FOOTPRINT = Footprint(
    chunked_loss=True,
    repeats_gate=True,
    expands_key_values=False,
    bucket_bytes=None,
    edge_bytes=16.0,
    margin=MARGIN,
    cached_share=0.0,
    has_context=False,
)
"""motley's trainer: up to two messages under way in each direction of a boundary, in fp32 where the
chips' formats differ. A chip's `memory_bytes` are what is free after the device's context."""

COPIED_LOGIT_BYTES = 14.0
"""Megatron-LM's vocabulary-parallel loss of 2019-2021 copies its input "so the input remains
unchanged": 16-bit logits, their fp32 form, its copy, and the exponentials."""

MEGATRON_2021_FOOTPRINT = Footprint(
    logit_bytes=COPIED_LOGIT_BYTES, split_logit_bytes=COPIED_LOGIT_BYTES
)
"""Megatron-LM 2.x: fp32 main gradients."""

MEGATRON_FOOTPRINT = Footprint(
    logit_bytes=10.0, split_logit_bytes=10.0, repeats_gate=True, expands_key_values=False
)
"""Megatron-Core with flash attention and fused kernels; 16-bit logits, their fp32 form and its
shifted copy, which becomes the gradient."""

DEEPSPEED_2021_FOOTPRINT = Footprint(
    logit_bytes=COPIED_LOGIT_BYTES,
    split_logit_bytes=COPIED_LOGIT_BYTES,
    step_bytes=4,
    bucket_bytes=2e9,
)
"""Megatron-LM's model under DeepSpeed's pipeline engine: an fp32 copy of the chip's share of the
gradients for the step; one bucket of 5e8 16-bit elements to reduce and one to gather."""

DEEPSPEED_BF16_FOOTPRINT = replace(DEEPSPEED_2021_FOOTPRINT, extra_gradient_bytes=2)
"""DeepSpeed's bf16 optimizer: fp32 gradients beside the 16-bit ones."""

DEEPSPEED_FOOTPRINT = Footprint(
    splits_gradients=True, step_bytes=4, bucket_bytes=2e9, freed_logit_bytes=2.0
)
"""DeepSpeed ZeRO-2 and 3 with a Hugging Face model."""

LLM_FOUNDRY_FOOTPRINT = Footprint(
    logit_bytes=4.0, split_logit_bytes=4.0, gradients_stay=False, keeps_root=True
)
"""LLM Foundry 2023: FSDP1 whose root unit holds the tied embedding; flash-attention's cross
entropy, which turns 16-bit logits into their gradient in place."""

TORCHTITAN_FOOTPRINT = Footprint(
    split_logit_bytes=16.0,
    freed_logit_bytes=2.0,
    gradients_stay=False,
)
"""torchtitan: FSDP2, eager cross entropy in fp32; PyTorch's loss over a split vocabulary holds four
tensors at once."""

PYTORCH_FOOTPRINT = Footprint(gradients_stay=False, wide_stream=True, freed_logit_bytes=2.0)
"""A plain loop with autocast over fp32 parameters."""

NANOGPT_FOOTPRINT = replace(
    PYTORCH_FOOTPRINT, logit_bytes=4.0, split_logit_bytes=4.0, freed_logit_bytes=0.0
)
"""The same under torch.compile, whose loss keeps the 16-bit logits and makes their gradient."""

MAXTEXT_FOOTPRINT = Footprint(
    logit_bytes=4.0, split_logit_bytes=4.0, repeats_gate=True, gradients_stay=False
)
"""XLA plans all memory before it runs: 16-bit logits and their gradient."""

LLM_C_FOOTPRINT = Footprint(logit_bytes=2.0, split_logit_bytes=2.0)
"""llm.c: the classifier turns 16-bit logits into their gradient in place."""


def communicator_bytes(num_groups: int, link_bytes_per_s: float) -> float:
    """Of a communicator for each group that a chip belongs to, on a link of that rate, and for all
    chips together."""
    if not num_groups:
        return 0.0
    channels = max(1.0, link_bytes_per_s / CHANNEL_BYTES_PER_S)
    algorithms = 3 if link_bytes_per_s >= SWITCHED_BYTES_PER_S else 2
    return (num_groups + 1) * channels * algorithms * CHANNEL_BYTES
