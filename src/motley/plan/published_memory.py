"""The memory of a published training: what the fullest of its stages is predicted to need."""

from __future__ import annotations

from motley.plan.memory import StageMemory, device_memory, stage_memory
from motley.plan.published_case import Case
from motley.units import Precision


def case_memory(case: Case) -> tuple[StageMemory, ...]:
    """The predicted peak of every group of chips, in the order of the pipeline.

    Groups to which a row's partition gives no layer are left out.
    """
    precisions, bounds = _precisions(case), stage_bounds(case)
    groups = []
    for group in range(case.num_stages):
        held = [
            _stage(case, virtual, precisions[group])
            for virtual in range(group, len(bounds) - 1, case.num_stages)
            if bounds[virtual] < bounds[virtual + 1]
        ]
        if held:
            groups.append(device_memory(held))
    return tuple(groups)


def stage_bounds(case: Case) -> tuple[int, ...]:
    """Bounds of the (virtual) stages over all layers: the embedding first, the head last.

    Where the row gives none the blocks are shared out evenly, counting embedding and head as
    blocks if that is what makes it even (as BLOOM's partition does).
    """
    blocks, count = case.config.layers, case.num_stages * case.virtual
    if case.partition is not None and len(case.partition) == count + 1:
        inner = [bound + 1 for bound in case.partition[1:-1]]
    elif blocks % count and (blocks + 2) % count == 0:
        inner = [index * (blocks + 2) // count for index in range(1, count)]
    else:
        inner = [1 + -(-index * blocks // count) for index in range(1, count)]
    return (0, *inner, case.config.num_layers)


def _stage(case: Case, index: int, precision: Precision) -> StageMemory:
    bounds = stage_bounds(case)
    # Whoever shares out sequences shares parameters among those chips too.
    members = case.layout.data * case.context
    layout = case.layout._replace(
        data=members * (case.num_replicas if case.layout.sharding == "none" else 1)
    )
    return stage_memory(
        case.config,
        case.sequence_length // case.context,
        precision,
        (bounds[index], bounds[index + 1]),
        num_in_flight=_in_flight(case, index),
        micro_batch_size=case.micro_batch * layout.data,
        layout=layout,
        stack=case.stack,
        accumulates=case.num_micro_batches > 1,
        link_bytes_per_s=min(link.bandwidth_bytes_per_s for link in case.local),
    )


def _in_flight(case: Case, index: int) -> int:
    """1F1B's, and with virtual stages those of Megatron-LM's interleaved schedule: its warm-up is
    2(p - g - 1) + (v - 1)p passes of group g, spread over v virtual stages (arXiv 2104.04473)."""
    group, chunk = index % case.num_stages, index // case.num_stages
    if case.virtual == 1:
        return min(case.num_stages - group, case.num_micro_batches)
    warm_up = 2 * (case.num_stages - group - 1) + (case.virtual - 1) * case.num_stages + 1
    before = chunk * case.num_stages
    rounds, rest = divmod(warm_up, case.num_stages * case.virtual)
    kept = rounds * case.num_stages + min(max(rest - before, 0), case.num_stages)
    return max(1, min(kept, case.num_micro_batches))


def _precisions(case: Case) -> list[Precision]:
    """Of every group: that of the chip on which its first rank lies."""
    per_group = sum(case.counts) // case.num_stages
    kinds = [
        chip.precision
        for chip, count in zip(case.chips, case.counts, strict=True)
        for _ in range(count)
    ]
    return [kinds[group * per_group] for group in range(case.num_stages)]
