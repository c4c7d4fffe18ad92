"""Checkpoints: training state by parameter name, free of layout, whole or not there at all.

Each rank writes the parameters that it answers for through PyTorch's distributed checkpoint, into
a folder `step-N.partial`; when all is written, rank 0 adds `whole.json` (sizes and checksums of
the files) and renames the folder to `step-N`. A folder without a matching `whole.json` is never
read. Any rank of any plan reads back just the names that it holds.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from motley.errors import CheckpointError, StorageError
from motley.optim.average import TailAverage
from motley.optim.optimizer import Optimizer
from motley.train.parameters import StageParameters

WHOLE = "whole.json"
PARTIAL = ".partial"
ARCHIVE_CUT_SHORT = ("unexpected pos", "PytorchStreamWriter failed writing")
"""What PyTorch 2.13 says when its archive was not written to the end."""


@dataclass(frozen=True)
class Progress:
    """What a checkpoint knows beside the tensors."""

    step: int
    """Updates done."""
    recipe_digest: str
    tokenizer_digest: str
    loss_scale: float = 1.0
    num_averaged: int = 0
    """Updates whose weights are in the mean that is kept beside them."""
    first_loss: float | None = None
    """Of the run, while it is what later losses are measured from (`motley.train.health`)."""


@dataclass(frozen=True)
class LiveState:
    """All that a rank trains, as live tensors in flat dictionaries that name no layout."""

    parameters: StageParameters
    optimizer: Optimizer
    average: TailAverage

    def held(self) -> dict[str, Tensor]:
        """Everything that the rank has."""
        names = list(self.parameters.masters)
        return self._weights(names) | self._moments(names)

    def own(self, answered: list[str]) -> dict[str, Tensor]:
        """What the rank saves: the parameters that it answers for, and the optimizer's state that
        it has of them or that it alone has."""
        sole = [name for name in self.optimizer.sole if name not in set(answered)]
        return self._weights(answered) | self._moments([*answered, *sorted(sole)])

    def _weights(self, names: list[str]) -> dict[str, Tensor]:
        named = {f"parameter/{name}": self.parameters.masters[name].detach() for name in names}
        return named | _labelled(self.average.state, names)

    def _moments(self, names: list[str]) -> dict[str, Tensor]:
        return _labelled(self.optimizer.state, names)


def _labelled(state: Callable[[str], dict[str, Tensor]], names: list[str]) -> dict[str, Tensor]:
    return {f"{kind}/{name}": each for name in names for kind, each in state(name).items()}


def checkpoint_path(folder: Path, step: int) -> Path:
    """The checkpoint after `step` updates in a run's folder of checkpoints."""
    return folder / f"step-{step:08d}"


def _partial_path(folder: Path, step: int) -> Path:
    """Where it is while it is written."""
    whole = checkpoint_path(folder, step)
    return whole.with_name(whole.name + PARTIAL)


class CheckpointWriter:
    """Saves in the background, one checkpoint at a time; keeps the newest few."""

    def __init__(
        self, folder: Path, keep: int, group: dist.ProcessGroup | None, *, is_leader: bool
    ) -> None:
        self._folder = folder
        self._keep = keep
        self._group = group
        self._is_leader = is_leader
        self._running: tuple[Future[Any], Progress] | None = None

    def begin(self, state: dict[str, Tensor], progress: Progress) -> None:
        """Copies the state and begins to write it. The save before must be finished.

        `StorageError` on all ranks if there is no place to write to.
        """
        assert self._running is None
        target = _partial_path(self._folder, progress.step)
        refusal: list[str | None] = [_make_empty(target) if self._is_leader else None]
        dist.broadcast_object_list(refusal, src=0, group=self._group)
        if refusal[0] is not None:
            raise self._not_saved(progress.step, refusal[0])
        future = async_save(state, checkpoint_id=str(target), process_group=self._group)
        assert isinstance(future, Future)
        self._running = (future, progress)

    @property
    def is_running(self) -> bool:
        return self._running is not None

    @property
    def is_done(self) -> bool:
        return self._running is not None and self._running[0].done()

    def finish(self) -> Path | None:
        """Waits for the save in progress; the whole checkpoint's folder, None if none ran.

        `StorageError` if it could not be written; what was there before stays.
        """
        if self._running is None:
            return None
        future, progress = self._running
        self._running = None
        partial = _partial_path(self._folder, progress.step)
        whole = checkpoint_path(self._folder, progress.step)
        try:
            future.result()
            if self._is_leader:
                _seal(partial, whole, progress)
                _prune(self._folder, self._keep, whole)
        except (Exception, CheckpointException) as cause:
            if self._is_leader:
                shutil.rmtree(partial, ignore_errors=True)
            raise self._not_saved(progress.step, why_not_saved(cause)) from cause
        return whole

    def _not_saved(self, step: int, why: str) -> StorageError:
        return StorageError(
            f"the checkpoint of step {step} could not be saved: {why}.",
            remedy=f"Free space on the disk of {self._folder}; older checkpoints are whole.",
        )


def _make_empty(folder: Path) -> str | None:
    """Makes a folder with nothing in it; why it cannot be made."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        return str(cause)
    return None


def why_not_saved(cause: BaseException) -> str:
    """PyTorch's writer of archives names a disk that is full only by the position in the file."""
    line = _first_line(cause)
    if any(sign in line for sign in ARCHIVE_CUT_SHORT):
        return f"the disk did not take the whole file, as when it is full (PyTorch: {line})"
    return line


def _seal(partial: Path, whole: Path, progress: Progress) -> None:
    files = {
        path.name: {"bytes": path.stat().st_size, "crc32": _crc32(path)}
        for path in sorted(partial.iterdir())
        if path.name != WHOLE
    }
    text = json.dumps({"format": 1, "progress": asdict(progress), "files": files}, indent=1)
    with open(partial / WHOLE, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    shutil.rmtree(whole, ignore_errors=True)
    os.replace(partial, whole)


def _prune(folder: Path, keep: int, saved: Path) -> None:
    """Those above the one just saved were passed over, and do not count."""
    own = [path for path in finished(folder) if path.name <= saved.name]
    for old in own[keep:]:
        shutil.rmtree(old, ignore_errors=True)


def finished(folder: Path) -> list[Path]:
    """Finished checkpoints, newest first."""
    if not folder.is_dir():
        return []
    found = [
        path for path in folder.glob("step-*") if path.is_dir() and not path.name.endswith(PARTIAL)
    ]
    return sorted(found, key=lambda path: path.name, reverse=True)


def read_progress(path: Path) -> Progress:
    """Checks every file of a checkpoint; `CheckpointError` says which is missing or broken."""
    try:
        table = json.loads((path / WHOLE).read_text(encoding="utf-8"))
        files, progress = table["files"], Progress(**table["progress"])
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise CheckpointError(
            f"{path} is not a whole checkpoint of motley: {WHOLE}: {_first_line(cause)}."
        ) from None
    for name, expected in files.items():
        file = path / name
        if not file.is_file() or file.stat().st_size != expected["bytes"]:
            raise CheckpointError(f"{path} is truncated: {name} is missing or too short.")
        if _crc32(file) != expected["crc32"]:
            raise CheckpointError(f"{path} is damaged: the checksum of {name} does not match.")
    return progress


def saved_shapes(path: Path) -> dict[str, torch.Size]:
    """The shape of each tensor in a checkpoint, by name; reads none of them."""
    try:
        saved = FileSystemReader(path).read_metadata().state_dict_metadata
    except Exception as cause:  # what a foreign pickle raises is not known
        raise CheckpointError(f"{path} cannot be read: {_first_line(cause)}.") from None
    return {
        name: each.size for name, each in saved.items() if isinstance(each, TensorStorageMetadata)
    }


def load_state(path: Path, state: dict[str, Tensor], *, distributed: bool = True) -> None:
    """Reads a checkpoint into the tensors of `state`, whatever layout it was saved under."""
    try:
        with warnings.catch_warnings():
            # Reading in one process is what is wanted; PyTorch warns that it assumes so.
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            load(state, checkpoint_id=str(path), no_dist=not distributed)
    except (Exception, CheckpointException) as cause:
        raise CheckpointError(
            f"{path} does not fit this model: {_first_line(cause)}.",
            remedy="Resume with the recipe that the run was begun with.",
        ) from cause


def _crc32(path: Path) -> int:
    checksum = 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


def _first_line(cause: BaseException) -> str:
    if isinstance(cause, CheckpointException) and cause.failures:
        cause = next(iter(cause.failures.values()))[0]
    text = str(cause).strip() or type(cause).__name__
    while cause.__cause__ is not None:
        cause = cause.__cause__
        text = str(cause).strip() or text
    return text.splitlines()[0].rstrip(".")
