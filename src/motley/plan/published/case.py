"""A published row as a model, chips, a layout and a stack: what the time and memory models take.

A row says some of it in words. The rules here read them; whatever a row leaves open and a rule
fills is listed in `Case.assumed`, and a row of which too little is known is skipped with the reason
(`Incomplete`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from motley.chips.chip import Chip, Link
from motley.chips.constants import Constants
from motley.model.config import ModelConfig
from motley.plan.layout import Layout, Recompute, Sharding
from motley.plan.published.chips import NamedChip, named_chips
from motley.plan.published.hardware import hardware_of
from motley.plan.published.model import Incomplete, config_of, named_shape
from motley.plan.published.rows import PublishedRow
from motley.plan.published.stack import stack_of
from motley.plan.published.words import (
    counts_dies,
    degree_noted,
    noted,
    offloads,
    partition_of,
    recompute_of,
    sharding_of,
)
from motley.plan.space import splits_experts
from motley.plan.stack import Stack
from motley.recipe import BatchConfig

LARGEST_DEFAULT_MICRO_BATCH = 16
MICRO_BATCHES_PER_STAGE = 6
"""Where a row gives no micro-batch: the largest power of two up to 16 that leaves every stage so
many micro-batches, as the scripts of Megatron-LM's weak-scaling tables choose."""

DEFAULT_SEQUENCE = (("torchtitan", 8192), ("megatron-lm images", 1024), ("fms-fsdp", 4096))
"""What a project's example configurations train on where a row gives no length, by its source."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One training as the models see it. Ranks go stage by stage, in a stage member by member."""

    config: ModelConfig
    sequence_length: int
    chips: tuple[Chip, ...]
    """One of each kind, in the order of ranks."""
    counts: tuple[int, ...]
    """How many of each."""
    per_node: int
    local: tuple[Link, ...]
    """Inside the nodes of each kind."""
    network: Link
    layout: Layout
    """Of one stage; its `data` members share state, others are replicas (`num_replicas`)."""
    num_stages: int
    num_replicas: int
    """Copies of the model beside the members of a group."""
    context: int
    """Chips that share out each sequence."""
    partition: tuple[int, ...] | None
    """Bounds of the stages over the model's blocks, if the row gives them."""
    virtual: int
    """Stages of each group in an interleaved schedule."""
    micro_batch: int
    """Samples of one member's micro-batch."""
    num_micro_batches: int
    tokens_per_step: float
    stack: Stack
    assumed: tuple[str, ...]
    offloads: bool = False
    """Something of it is kept in the memory of the host, which no one can say how much of."""
    memory_recompute: Recompute | None = None
    """What is recomputed as far as memory goes, where a row does not say it; the layout has what
    takes time."""


def written_case(
    row: PublishedRow,
    table: Sequence[PublishedRow] = (),
    constants: Constants | None = None,
    *,
    known_framework: bool = True,
) -> Case:
    """The case of one row, with nothing saved where it does not say so (`settle.case_of` goes on
    from here); `Incomplete` or `UnknownChipError` says why there is none.

    Unless `known_framework`, it is predicted as if nobody had ever seen the row's framework.
    """
    named = named_chips(f"{row.chip} (GCD)" if counts_dies(row.notes) else row.chip)
    stack, assumed = stack_of(row, known=known_framework)
    if constants is not None:
        stack = replace(stack, constants=constants)
    num_chips = _num_chips(row, named)
    hardware = hardware_of(row, named, num_chips, stack.constants)
    assumed += hardware.assumed
    length = row.seq_len or _sequence(row, assumed)
    config, more = config_of(row, length, table)
    assumed += more
    context = degree_noted(row.notes, "cp", "context parallel") or 1
    tensor, stages, data = _degrees(row, num_chips, context, assumed)
    sharding, inside = _sharing(row, stack, (tensor, stages, data), hardware.per_node, assumed)
    sharers = tensor * (data if len(named) == 1 else inside)
    virtual = _virtual(row, stages, config.layers)
    batch, micro_batch = _batches(row, data, stages, virtual, assumed)
    _require_batch(length, batch)
    per_replica = -(-batch // data)
    return Case(
        config=config,
        sequence_length=length,
        chips=hardware.chips,
        counts=hardware.counts,
        per_node=hardware.per_node,
        local=hardware.local,
        network=hardware.network,
        layout=Layout(tensor, inside, _experts(row, config, sharers), sharding, recompute_of(row)),
        num_stages=stages,
        num_replicas=data // inside,
        context=context,
        partition=partition_of(row.notes, config.layers),
        virtual=virtual,
        micro_batch=micro_batch,
        num_micro_batches=-(-per_replica // micro_batch),
        tokens_per_step=float(batch * length),
        stack=stack,
        assumed=tuple(assumed),
        offloads=offloads(row),
    )


def _virtual(row: PublishedRow, stages: int, blocks: int) -> int:
    """Stages of each group in an interleaved schedule, as many as there are blocks for."""
    said = degree_noted(row.notes, "vp", "vpp", "virtual pipeline")
    wanted = said or (2 if "interleaved" in row.notes.lower() else 1)
    return max(1, min(wanted, blocks // stages)) if stages > 1 else 1


def _experts(row: PublishedRow, config: ModelConfig, num_chips: int) -> int:
    """Chips of a group over which a row spreads the experts."""
    said = degree_noted(row.notes, "ep", "expert parallel") or 1
    degree = math.gcd(said, num_chips)
    return degree if config.mixture and splits_experts(config, degree) else 1


def _require_batch(length: int, batch: int) -> None:
    try:
        BatchConfig(sequence_length=length, global_batch=batch)
    except ValueError as cause:
        raise Incomplete(f"no batch: {cause}") from None


def _num_chips(row: PublishedRow, named: Sequence[NamedChip]) -> int:
    counted = sum(chip.count or 0 for chip in named)
    num_chips = row.n_chips or counted
    if not num_chips:
        raise Incomplete("n_chips is missing")
    if counted not in (0, num_chips):
        raise Incomplete(f"contradiction: {counted} chips are named, n_chips is {num_chips}")
    return num_chips


def _sharing(
    row: PublishedRow,
    stack: Stack,
    degrees: tuple[int, int, int],
    per_node: int,
    assumed: list[str],
) -> tuple[Sharding, int]:
    """What the data-parallel members share out, and among how many of them."""
    tensor, stages, data = degrees
    sharding = sharding_of(row.zero_or_fsdp)
    if sharding == "none" and stack.always_shards:
        sharding = "optimizer"
    if sharding == "full" and stages > 1:
        sharding = "optimizer"
        assumed.append("in a pipeline parameters stay gathered for the whole step")
    if "hsdp" in row.zero_or_fsdp.lower():
        said = degree_noted(row.notes, "fsdp") or per_node // tensor
        inside = max(1, math.gcd(data, said))
        assumed.append(f"hybrid sharding: {inside} chips share, {data // inside} groups copy")
        return sharding, inside
    return sharding, 1 if sharding == "none" else data


def _sequence(row: PublishedRow, assumed: list[str]) -> int:
    source = row.source.lower()
    usual = next((length for name, length in DEFAULT_SEQUENCE if name in source), None)
    said = noted(row.notes, r"default (\d{3,6})\)") or usual
    shape = named_shape(row.model)
    length = said or (shape.context if shape else None)
    if length is None:
        raise Incomplete("seq_len is missing")
    assumed.append(f"seq_len not given: {length}")
    return length


def _degrees(
    row: PublishedRow, num_chips: int, context: int, assumed: list[str]
) -> tuple[int, int, int]:
    """Tensor, pipeline and data degree; what is missing follows from the number of chips."""
    tensor, stages, data = row.tp, row.pp, row.dp
    if tensor is stages is data is None and num_chips > 1 and not row.zero_or_fsdp:
        raise Incomplete("tp, pp and dp are all missing")
    if data is not None and (tensor is None or stages is None):
        model = max(1, num_chips // data // context)
        tensor = tensor or min(8, model)
        stages = stages or max(1, model // tensor)
        if model > 1:
            assumed.append(f"{model} chips per replica: tensor {tensor}, pipeline {stages}")
    tensor, stages = tensor or 1, stages or 1
    if data is None:
        data = max(1, num_chips // (tensor * stages * context))
    if tensor * stages * data * context != num_chips:
        raise Incomplete(
            f"contradiction: tp {tensor} x pp {stages} x dp {data}"
            f"{f' x cp {context}' if context > 1 else ''} is not n_chips {num_chips}"
        )
    return tensor, stages, data


def _batches(
    row: PublishedRow, data: int, stages: int, virtual: int, assumed: list[str]
) -> tuple[int, int]:
    """Global batch and micro-batch in samples."""
    batch, micro_batch = row.global_batch, row.micro_batch
    if batch is None:
        if micro_batch is None:
            raise Incomplete("global_batch and micro_batch are both missing")
        batch = micro_batch * data
        assumed.append(f"global_batch not given: one micro-batch per replica, {batch}")
    if micro_batch is not None and stages > 1 and "local batch" in row.notes.lower():
        micro_batch = max(1, micro_batch // (stages * virtual))
        assumed.append(f"micro_batch is the local batch: one of {micro_batch} per stage")
    if micro_batch is None:
        micro_batch = _default_micro_batch(-(-batch // data), stages)
        assumed.append(f"micro_batch not given: {micro_batch}")
    return batch, micro_batch


def _default_micro_batch(per_replica: int, stages: int) -> int:
    needed = MICRO_BATCHES_PER_STAGE * stages if stages > 1 else 1
    size = LARGEST_DEFAULT_MICRO_BATCH
    while size > 1 and (per_replica // size < needed or per_replica % size):
        size //= 2
    return size
