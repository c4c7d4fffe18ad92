"""A folder that says which samples of a text a training sees: the samples that a selection kept.

It holds `index.json` and `kept.npy`, the kept samples' numbers in rising order, which are mapped
into memory. The cache has one for each key; a run has a copy of its own, so that its order of
samples outlives the cache.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motley.data.cache import temporary_folder
from motley.data.files import Report, silent
from motley.data.prepared import PreparedData
from motley.errors import CorpusError
from motley.schema import build

FORMAT = "motley-selection"
VERSION = 1
INDEX_FILE = "index.json"
KEPT_FILE = "kept.npy"

_REMEDY = "Resume the run, which makes it again."

Kept = NDArray[np.integer[Any]]


@dataclass(frozen=True, kw_only=True)
class SelectionIndex:
    """The whole of `index.json`."""

    format: str = FORMAT
    version: int = VERSION
    key: str
    """The digest of all that decided what is kept."""
    data_key: str
    """That of the text's prepared folder."""
    tokenizer_digest: str
    sequence_length: int
    num_candidates: int
    num_kept: int
    kept_sha256: str
    """Of `kept.npy`."""
    kept_loss: float
    dropped_loss: float | None
    """The reference's mean loss on each in nats per token; None if nothing was dropped."""
    process_s: float
    wall_s: float
    """What it took, measured on the machine that made it."""

    def __post_init__(self) -> None:
        if (self.format, self.version) != (FORMAT, VERSION):
            raise ValueError(
                f"format: {self.format} {self.version}, but this motley reads {FORMAT} {VERSION}"
            )


@dataclass(frozen=True, eq=False)
class Selected:
    """A selection's folder that has been checked against the text that it was made from."""

    folder: Path
    index: SelectionIndex
    kept: Kept
    """[num_kept] sample numbers, rising."""

    @classmethod
    def load(cls, folder: Path, data: PreparedData, sequence_length: int) -> Selected:
        """`CorpusError` if anything is missing, damaged, or made from another text, tokenizer or
        for another length of samples."""
        index = _read_index(folder / INDEX_FILE)
        path = folder / KEPT_FILE
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            if digest != index.kept_sha256:
                raise ValueError("it is not what its index says")
            kept = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as cause:
            raise CorpusError(f"{path}: is damaged: {cause}.", remedy=_REMEDY) from None
        _require_fits(folder, index, data, sequence_length)
        return cls(folder, index, kept)

    def copy_to(self, folder: Path) -> None:
        """Writes the same files there; raises `OSError` if the disk does not take them."""
        folder.mkdir(exist_ok=True)
        for name in (KEPT_FILE, INDEX_FILE):
            shutil.copyfile(self.folder / name, folder / name)


def find(
    cache: Path, key: str, data: PreparedData, sequence_length: int, report: Report
) -> Selected | None:
    """The selection of that key; a damaged one is removed, with a message."""
    folder = selection_folder(cache, key)
    if not folder.exists():
        return None
    try:
        return Selected.load(folder, data, sequence_length)
    except CorpusError as cause:
        report(f"{cause.message} It is removed and made again.")
        shutil.rmtree(folder, ignore_errors=True)
        return None


def store(cache: Path, kept: Kept, index: SelectionIndex, data: PreparedData) -> Selected:
    """Puts a selection into the cache, whole or not at all; that of another process which was first
    stays. `kept_sha256` is filled in. `StorageError` if the disk does not take it."""
    target = selection_folder(cache, index.key)
    with temporary_folder(cache, "the selection") as folder:
        np.save(folder / KEPT_FILE, kept)
        digest = hashlib.sha256((folder / KEPT_FILE).read_bytes()).hexdigest()
        text = json.dumps({**asdict(index), "kept_sha256": digest}, indent=2)
        (folder / INDEX_FILE).write_text(text + "\n", encoding="utf-8")
        if find(cache, index.key, data, index.sequence_length, silent) is None:
            folder.rename(target)
    return Selected.load(target, data, index.sequence_length)


def selection_folder(cache: Path, key: str) -> Path:
    """Where the cache keeps the selection of that key."""
    return cache / f"selection-{key}"


def _read_index(path: Path) -> SelectionIndex:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise CorpusError(f"{path}: is damaged: {cause}.", remedy=_REMEDY) from None
    return build(SelectionIndex, table, str(path), CorpusError)


def _require_fits(
    folder: Path, index: SelectionIndex, data: PreparedData, sequence_length: int
) -> None:
    wanted = {
        "tokenizer": (index.tokenizer_digest, data.index.tokenizer_digest),
        "text": (index.data_key, data.index.key),
        "sequence length": (str(index.sequence_length), str(sequence_length)),
    }
    for what, (found, expected) in wanted.items():
        if found != expected:
            raise CorpusError(
                f"{folder}: the samples were selected with another {what} ({found[:12]}) than this "
                f"run has ({expected[:12]}).",
                remedy="Resume the run, which selects again.",
            )
