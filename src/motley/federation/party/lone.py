"""The main job's engine in this very process, on one chip: to try federations out at small size.

`motley federation simulate` lets many parties take turns on one engine; the fault injector gives
each of its processes one. A party that trains for real has an engine per chip (`train.worker`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from motley.chips.chip import Chip
from motley.cluster import Cluster
from motley.plan.search.build import build_plan
from motley.plan.search.choices import ReplicaChoice, StageChoice
from motley.recipe import Recipe
from motley.train.assemble import build_engine
from motley.train.engine import Engine


@contextmanager
def lone_process(threads: int = 1) -> Iterator[None]:
    """This process as the only rank of a training; afterwards it is as before."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(threads)
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
        torch.set_num_threads(num_threads)


def lone_engine(recipe: Recipe, flops_per_s: float = 1e15) -> Engine:
    """An engine on one emulated chip, within a `lone_process`; the default rate is beyond any
    host's, so nothing waits."""
    chip = Chip(
        name="chip-0",
        kind="emulated",
        emulated=True,
        precision="fp32",
        flops_per_s={"fp32": flops_per_s},
        memory_bytes=10**12,
        memory_bandwidth_bytes_per_s=1e15,
        source="emulated",
    )
    cluster = Cluster(name="lone", chips=(chip,))
    whole = StageChoice(0, 0, recipe.model.num_layers)
    batch = recipe.batch.global_batch
    plan = build_plan((ReplicaChoice((whole,), batch, batch),), recipe, cluster)
    return build_engine(recipe, cluster, plan, 0)[0]


def optimizer_state(engine: Engine) -> dict[str, Tensor]:
    """The engine's moments, live, by name."""
    state = engine.live.held()
    return {name: value for name, value in state.items() if not name.startswith("parameter/")}
