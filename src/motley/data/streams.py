"""Token shards on disk: flat files of little-endian ids, written once and then mapped into memory.

A split is `<split>-00000.bin`, `<split>-00001.bin`, ...: one stream of tokens, cut where a shard is
full, with an end-of-text id after each document.
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from motley.errors import CorpusError

SHARD_TOKENS = 64 << 20
"""Tokens of a full shard: 128 MiB with 16-bit ids."""


def token_dtype(vocab_size: int) -> str:
    """The smallest type of a shard that holds ids below `vocab_size`."""
    return "<u2" if vocab_size <= 1 << 16 else "<u4"


def shard_path(folder: Path, split: str, number: int) -> Path:
    return folder / f"{split}-{number:05d}.bin"


class ShardWriter:
    """Writes one split, shard after shard; use it in a `with` block.

    Raises `OSError` if the disk does not take the tokens.
    """

    def __init__(self, folder: Path, split: str, vocab_size: int, shard_tokens: int) -> None:
        self.folder = folder
        self.split = split
        self.dtype = np.dtype(token_dtype(vocab_size))
        self.shard_tokens = shard_tokens
        self.counts: list[int] = []
        self._stream: IO[bytes] | None = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._finish_shard()

    def append(self, tokens: Sequence[int]) -> None:
        """Add ids to the stream's end."""
        ids = np.asarray(tokens, dtype=self.dtype)
        while len(ids):
            if self._stream is None:
                path = shard_path(self.folder, self.split, len(self.counts))
                self._stream = path.open("wb")
                self.counts.append(0)
            head = ids[: self.shard_tokens - self.counts[-1]]
            self._stream.write(head.tobytes())
            self.counts[-1] += len(head)
            if self.counts[-1] == self.shard_tokens:
                self._finish_shard()
            ids = ids[len(head) :]

    def _finish_shard(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            with stream:
                stream.flush()
                os.fsync(stream.fileno())


@dataclass(frozen=True)
class TokenStream:
    """One split's tokens, as if they were one array."""

    paths: tuple[Path, ...]
    shard_tokens: tuple[int, ...]
    """Tokens of each shard."""
    vocab_size: int
    num_bytes: int
    """Raw UTF-8 bytes of the documents."""
    num_documents: int

    @property
    def num_tokens(self) -> int:
        """Tokens of all shards, one end of text for each document among them."""
        return self._ends[-1]

    def read(self, start: int, count: int) -> NDArray[np.int64]:
        """[count] the ids at `start`, `start` + 1, ..., across shards.

        `IndexError` outside the stream; `CorpusError` for an id that the tokenizer does not have.
        """
        if start < 0 or count < 0 or start + count > self.num_tokens:
            raise IndexError(f"tokens {start} to {start + count} of {self.num_tokens}")
        tokens = np.empty(count, dtype=np.int64)
        done = 0
        while done < count:
            shard = bisect.bisect_right(self._ends, start + done)
            offset = start + done - (self._ends[shard] - self.shard_tokens[shard])
            piece = self._maps[shard][offset : offset + count - done]
            tokens[done : done + len(piece)] = piece
            done += len(piece)
        if count and tokens.max() >= self.vocab_size:
            raise CorpusError(
                f"{self.paths[0].parent}: the shards are damaged: id {tokens.max()} of "
                f"{self.vocab_size}, in tokens {start} to {start + count}.",
                remedy="Delete that folder; it is made again from the corpus.",
            )
        return tokens

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(self.shard_tokens))

    @cached_property
    def _maps(self) -> list[NDArray[Any]]:
        dtype = token_dtype(self.vocab_size)
        return [np.memmap(path, dtype=dtype, mode="r") for path in self.paths]
