"""A published row as a model, chips, a layout and a stack: what the time and memory models take.

A row says some of it in words. The rules here read them; whatever a row leaves open and a rule
fills is listed in `Case.assumed`, and a row of which too little is known is skipped with the reason
(`Incomplete`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from motley.chips.catalog import CatalogChip
from motley.chips.chip import Chip, Link
from motley.chips.constants import Constants
from motley.chips.efficiency import efficiency_of
from motley.chips.quoted import quoted_fields, training_precision
from motley.chips.quoted_link import LOCAL_LATENCY_S, PCIE_X16_BYTES_PER_S, quoted_link
from motley.errors import UnknownChipError
from motley.model.config import ModelConfig
from motley.plan.layout import Layout, Recompute, Sharding
from motley.plan.published import PublishedRow
from motley.plan.published_chips import NamedChip, named_chips
from motley.plan.published_model import Incomplete, config_of, named_shape
from motley.plan.published_network import Network, network_of
from motley.plan.published_stack import stack_of
from motley.plan.stack import Stack
from motley.units import Precision

NETWORK_LATENCY_S = 8e-6
"""Of a message between nodes over InfiniBand or RoCE."""
SOCKET_LATENCY_S = 5e-5
"""Of a message between nodes over TCP."""

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


def case_of(
    row: PublishedRow, table: Sequence[PublishedRow] = (), constants: Constants | None = None
) -> Case:
    """The case of one row; `Incomplete` or `UnknownChipError` says why there is none."""
    named = named_chips(row.chip)
    stack, assumed = stack_of(row)
    if constants is not None:
        stack = replace(stack, constants=constants)
    assumed += [entry for chip in named for entry in chip.assumed]
    length = row.seq_len or _sequence(row, assumed)
    config, more = config_of(row, length, table)
    assumed += more
    num_chips = row.n_chips or sum(chip.count or 0 for chip in named)
    if not num_chips:
        raise Incomplete("n_chips is missing")
    counted = sum(chip.count or 0 for chip in named)
    if counted not in (0, num_chips):
        raise Incomplete(f"contradiction: {counted} chips are named, n_chips is {num_chips}")
    context = _noted(row.notes, r"\bcp=(\d+)") or 1
    tensor, stages, data = _degrees(row, num_chips, context, named[0].catalog, assumed)
    network = network_of(f"{row.interconnect} {row.chip}", named[0].catalog, num_chips)
    if network.assumed:
        assumed.append(network.assumed)
    local = [_local(chip.catalog, network, kind) for kind, chip in enumerate(named)]
    if num_chips > 1:
        assumed += [
            f"link of {chip.catalog.id} not known: PCIe 4.0"
            for chip, link in zip(named, local, strict=True)
            if link.source == "predicted"
        ]
    sharding = _sharding(row.zero_or_fsdp)
    if sharding == "full" and stages > 1:
        sharding = "optimizer"
        assumed.append("in a pipeline parameters stay gathered for the whole step")
    inside = data if sharding == "full" else 1
    if "hsdp" in row.zero_or_fsdp.lower():
        inside = max(1, min(data, network.per_node // tensor))
        assumed.append(f"hybrid sharding: {inside} chips share, {data // inside} groups copy")
    elif sharding == "optimizer":
        inside = data
    virtual = 2 if stages > 1 and "interleaved" in row.notes.lower() else 1
    batch, micro_batch = _batches(row, data, stages, virtual, assumed)
    per_replica = -(-batch // data)
    return Case(
        config=config,
        sequence_length=length,
        chips=tuple(_chip(chip, row.precision, stack, constants) for chip in named),
        counts=tuple(chip.count or num_chips for chip in named),
        per_node=network.per_node,
        local=tuple(local),
        network=_network_link(network),
        layout=Layout(tensor, inside, 1, sharding, _recompute(row)),
        num_stages=stages,
        num_replicas=data // inside,
        context=context,
        partition=_partition(row.notes, config.layers),
        virtual=virtual,
        micro_batch=micro_batch,
        num_micro_batches=-(-per_replica // micro_batch),
        tokens_per_step=float(batch * length),
        stack=stack,
        assumed=tuple(assumed),
    )


def _noted(notes: str, pattern: str) -> int | None:
    match = re.search(pattern, notes)
    return int(match.group(1)) if match else None


def _sequence(row: PublishedRow, assumed: list[str]) -> int:
    source = row.source.lower()
    usual = next((length for name, length in DEFAULT_SEQUENCE if name in source), None)
    noted = _noted(row.notes, r"default (\d{3,6})\)") or usual
    shape = named_shape(row.model)
    length = noted or (shape.context if shape else None)
    if length is None:
        raise Incomplete("seq_len is missing")
    assumed.append(f"seq_len not given: {length}")
    return length


def _degrees(
    row: PublishedRow, num_chips: int, context: int, chip: CatalogChip, assumed: list[str]
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


def _sharding(text: str) -> Sharding:
    lowered = text.lower()
    if "fsdp" in lowered or "hsdp" in lowered or "zero-3" in lowered or "zero3" in lowered:
        return "full"
    if "zero-0" in lowered or lowered in ("", "none", "ddp", "no"):
        return "none"
    return "optimizer" if "zero" in lowered or "optim" in lowered else "none"


def _recompute(row: PublishedRow) -> Recompute:
    lowered = row.recompute.lower()
    if "selective" in lowered:
        return "selective"
    if "full" in lowered or lowered in ("yes", "true"):
        return "full"
    if not lowered and "recompute counted" in row.notes.lower():
        return "full"
    return "none"


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


def _partition(notes: str, blocks: int) -> tuple[int, ...] | None:
    """Bounds of stages over blocks, from "stage partition over N ops [...]" or "5-7-7-7"."""
    match = re.search(r"partition over (\d+) ops \[([\d, ]+)\]", notes)
    if match:
        # Megatron-DeepSpeed's list: embedding, a transpose, the blocks, then norm, head and loss.
        bounds = [int(part) for part in match.group(2).split(",")]
        before = min(2, int(match.group(1)) - blocks)
        return tuple(min(max(bound - before, 0), blocks) for bound in bounds)
    match = re.search(r"layers per stage ((?:\d+-)+\d+)", notes)
    if match is None:
        return None
    counts = [int(part) for part in match.group(1).split("-")]
    extra = sum(counts) - blocks
    bounds, reached = [0], -(extra // 2)
    for count in counts:
        reached += count
        bounds.append(min(max(reached, 0), blocks))
    bounds[-1] = blocks
    return tuple(bounds)


def precision_of(text: str, rates: dict[Precision, float]) -> Precision:
    """The format of the matmuls; where a chip lacks it, the one that it trains in instead."""
    lowered = text.lower()
    wanted: Precision | None = None
    if "fp8" in lowered or "float8" in lowered:
        wanted = "fp8"
    elif "bf16" in lowered:
        wanted = "bf16"
    elif "fp16" in lowered or "amp" in lowered or "mixed" in lowered:
        wanted = "fp16"
    elif "fp32" in lowered or "tf32" in lowered:
        wanted = "fp32"
    if wanted is None:
        return training_precision(rates)
    if wanted not in rates and wanted in ("bf16", "fp16"):
        other: Precision = "fp16" if wanted == "bf16" else "bf16"
        wanted = other if other in rates else wanted
    if wanted not in rates:
        raise Incomplete(f"the catalog has no {wanted} rate of the chip")
    return wanted


def _chip(named: NamedChip, text: str, stack: Stack, constants: Constants | None) -> Chip:
    entry = named.catalog
    constants = constants or stack.constants
    fields = quoted_fields(entry.id, {"name": entry.id})
    rates: dict[Precision, float] = dict(fields["flops_per_s"])
    if entry.fp8_tflops:
        rates["fp8"] = entry.fp8_tflops * 1e12
    if named.power_w is not None and entry.tdp_w is not None:
        share = (named.power_w / entry.tdp_w) ** constants.power_exponent
        rates = {key: rate * share for key, rate in rates.items()}
    if entry.memory_gb is None or entry.mem_bandwidth_gbps is None:
        raise UnknownChipError(f"the catalog does not know memory of '{entry.id}'.")
    fields.update(
        flops_per_s=rates,
        precision=precision_of(text, rates),
        efficiency=efficiency_of(entry),
        memory_bytes=round(entry.memory_gb * 1e9),
        memory_bandwidth_bytes_per_s=entry.mem_bandwidth_gbps * 1e9,
    )
    return Chip(**fields)


def _local(chip: CatalogChip, network: Network, kind: int) -> Link:
    """Between the chips of a node; PCIe 4.0 x16 where the catalog has no link."""
    link = quoted_link(chip, network.per_node) or Link(
        kind="PCIe 4.0 x16",
        bandwidth_bytes_per_s=PCIE_X16_BYTES_PER_S[4.0],
        latency_s=LOCAL_LATENCY_S,
        source="predicted",
    )
    limits = network.local_bytes_per_s
    limit = limits[min(kind, len(limits) - 1)] if limits else None
    rate = min(link.bandwidth_bytes_per_s, limit or math.inf)
    return replace(link, bandwidth_bytes_per_s=rate)


def _network_link(network: Network) -> Link:
    sockets = network.kind == "Ethernet"
    return Link(
        kind=network.kind,
        bandwidth_bytes_per_s=network.node_bytes_per_s,
        latency_s=SOCKET_LATENCY_S if sockets else NETWORK_LATENCY_S,
        source="quoted",
    )
