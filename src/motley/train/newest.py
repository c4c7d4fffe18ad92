"""Which checkpoint a run goes on from: the newest that is whole and of this run's own kind.

Others in the folder, broken ones and those of another tokenizer or model, are reported and passed
over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from motley.errors import CheckpointError
from motley.train.checkpoint import Progress, finished, read_progress, saved_shapes
from motley.train.engine import Engine


@dataclass(frozen=True)
class Expected:
    """What a checkpoint must have for a run to go on from it."""

    tokenizer_digest: str
    shapes: Mapping[str, torch.Size]
    """Of the tensors that are read, by name; it may hold more."""

    def require(self, path: Path, progress: Progress) -> None:
        """`CheckpointError` says in what the checkpoint at `path` differs."""
        if progress.tokenizer_digest != self.tokenizer_digest:
            raise CheckpointError(
                f"{path} was trained with another tokenizer ({progress.tokenizer_digest[:12]}, "
                f"this run has {self.tokenizer_digest[:12]}).",
                remedy="Resume with the run's own data, or begin a new run.",
            )
        found = saved_shapes(path)
        for name, shape in self.shapes.items():
            if found.get(name) != shape:
                has = f"has the shape {list(found[name])}" if name in found else "is not in it"
                raise CheckpointError(
                    f"{path} is of another model or optimizer: {name} {has}, and this run's has "
                    f"the shape {list(shape)}.",
                    remedy="Resume with the recipe that the run was begun with.",
                )


def expected_of(engine: Engine, tokenizer_digest: str, group: dist.ProcessGroup | None) -> Expected:
    """What all ranks together read. All ranks call it."""
    mine = {name: tensor.shape for name, tensor in engine.live.held().items()}
    shapes: list[dict[str, torch.Size]] = [{} for _ in range(dist.get_world_size(group))]
    dist.all_gather_object(shapes, mine, group=group)
    return Expected(tokenizer_digest, {k: v for held in shapes for k, v in held.items()})


def newest_whole(
    folder: Path, report: Callable[[str], None], expected: Expected | None = None
) -> tuple[Path, Progress] | None:
    """The newest checkpoint that is whole and has what is expected; each other is reported and
    passed over.

    `CheckpointError` if there are whole ones and none has it: training anew would replace them.
    """
    foreign: CheckpointError | None = None
    for path in finished(folder):
        try:
            progress = read_progress(path)
        except CheckpointError as broken:
            report(f"{broken.message} Falling back to the one before.")
            continue
        try:
            if expected is not None:
                expected.require(path, progress)
        except CheckpointError as differs:
            report(f"{differs.message} Falling back to the one before.")
            foreign = foreign or differs
            continue
        return path, progress
    if foreign is not None:
        raise foreign
    return None
