"""What all ranks tell each other at the end of a step, in one small all-gather.

Every rank computes clipping, loss and finish times from the same numbers in the same order, so all
ranks take the same decision to the last bit without a second message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class RankReport:
    """One rank's figures of one step. Seconds are of the chip's clock."""

    loss_sum: float = 0.0
    """Nats over the rank's targets; on the last stage only."""
    num_targets: float = 0.0
    squared_norm: float = 0.0
    """Of the summed gradients that this rank answers for."""
    stop: float = 0.0
    """1 if this rank was asked to stop."""
    clock: float = 0.0
    compute_s: float = 0.0
    wait_s: float = 0.0
    communication_s: float = 0.0
    optimizer_s: float = 0.0
    memory_bytes: float = 0.0
    samples: float = 0.0


def exchange(
    report: RankReport,
    ready: Mapping[int, float],
    num_buckets: int,
    group: dist.ProcessGroup | None,
) -> tuple[list[RankReport], list[dict[int, float]]]:
    """All ranks' reports and the moments at which their buckets were ready, in order of ranks."""
    moments = [ready.get(bucket, float("nan")) for bucket in range(num_buckets)]
    mine = torch.tensor([*astuple(report), *moments], dtype=torch.float64)
    gathered = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(gathered, mine, group=group)
    size = len(fields(RankReport))
    reports, all_ready = [], []
    for row in gathered:
        values = row.tolist()
        reports.append(RankReport(*values[:size]))
        all_ready.append(_present(values[size:]))
    return reports, all_ready


def _present(moments: Sequence[float]) -> dict[int, float]:
    return {bucket: moment for bucket, moment in enumerate(moments) if moment == moment}
