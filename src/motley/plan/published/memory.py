"""The memory of a published training: what each group of its chips is predicted to need."""

from __future__ import annotations

from motley.plan.memory.peak import StageMemory, device_memory
from motley.plan.memory.stage import stage_memory
from motley.plan.published.case import Case
from motley.plan.published.split import kinds_by_stage, pipeline_of_case
from motley.plan.timing.schedule import in_flight_of

GIB_PER_GB = 2**30 / 1e9
"""Datasheets say GB and mean GiB: nvidia-smi shows 81,920 MiB of an "A100 80 GB"."""

USABLE_SHARE = 0.985
"""Of those, what a process can have: 79.2 of 80 GiB on an A100, 15.8 of 16 on a V100. Cards with
error correction inside GDDR memory lose more (14.8 of 16 GiB on a T4), which this does not know."""


def case_memory(case: Case) -> tuple[StageMemory, ...]:
    """The predicted peak of every group of chips, in the order of the pipeline.

    Groups to which a row's partition gives no layer are left out.
    """
    devices, bounds, schedule = pipeline_of_case(case)
    kept = in_flight_of(devices, case.num_micro_batches, schedule)
    firsts = [kinds[0] for kinds in kinds_by_stage(case)]
    groups: dict[int, list[StageMemory]] = {}
    for group, layers, count in zip(devices, bounds, kept, strict=True):
        if layers[0] < layers[1]:
            groups.setdefault(group, []).append(_stage(case, firsts[group], layers, count))
    return tuple(device_memory(groups[group]) for group in sorted(groups))


def case_fits(case: Case, memory: tuple[StageMemory, ...]) -> bool | None:
    """Whether every group's chips have what it needs, nominal memory taken as in `usable_bytes`;
    None where the host has a part of it.

    On unlike chips the smallest counts, as their placement is not part of a row.
    """
    if case.offloads:
        return None
    return max(part.total_bytes for part in memory) <= usable_bytes(case)


def usable_bytes(case: Case) -> float:
    """Memory that a process can have on the smallest of the case's chips."""
    return min(chip.memory_bytes for chip in case.chips) * GIB_PER_GB * USABLE_SHARE


def _stage(case: Case, kind: int, layers: tuple[int, int], num_in_flight: int) -> StageMemory:
    # Whoever shares out sequences shares parameters among those chips too.
    members = case.layout.data * case.context
    layout = case.layout._replace(
        data=members * (case.num_replicas if case.layout.sharding == "none" else 1),
        recompute=case.memory_recompute or case.layout.recompute,
    )
    return stage_memory(
        case.config,
        case.sequence_length // case.context,
        case.chips[kind].precision,
        layers,
        num_in_flight=num_in_flight,
        micro_batch_size=case.micro_batch * layout.data,
        layout=layout,
        stack=case.stack,
        accumulates=case.num_micro_batches > 1,
        link_bytes_per_s=case.local[kind].bandwidth_bytes_per_s,
    )
