"""A folder of token shards with all that is needed to train on it: what is in it, and whether it
is whole.

`motley.data.shards.prepare` makes such a folder; a run opens it again with `PreparedData.load`.
It holds `index.json`, `tokenizer.json`, `token_bytes.npy` and the shards of both splits, and never
changes once it is made.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from motley.data.streams import TokenStream, shard_path, token_dtype
from motley.data.tokenizer import Tokenizer, canonical_digest, load_tokenizer, require_digest
from motley.errors import CorpusError
from motley.schema import build

FORMAT = "motley-tokens"
VERSION = 1
INDEX_FILE = "index.json"
TOKENIZER_FILE = "tokenizer.json"
TOKEN_BYTES_FILE = "token_bytes.npy"
TRAIN, HELD_OUT = "train", "held-out"

_REMEDY = "Delete that folder; it is made again from the corpus."


@dataclass(frozen=True, kw_only=True)
class SplitIndex:
    """What one split's shards hold."""

    num_documents: int
    num_bytes: int
    """Raw UTF-8 bytes of the documents."""
    shard_tokens: tuple[int, ...]
    """Tokens of each shard."""

    def __post_init__(self) -> None:
        if min(self.shard_tokens, default=0) < 1 or sum(self.shard_tokens) < 2:
            raise ValueError("shard_tokens: needs a token in each shard, and two in all")


@dataclass(frozen=True, kw_only=True)
class Index:
    """The whole of `index.json`."""

    format: str
    version: int
    key: str
    """The digest of what the folder was made from; see `cache_key`."""
    dtype: str
    """Numpy's name for the type of the ids in the shards."""
    vocab_size: int
    end_of_text: int
    tokenizer_digest: str
    source_digest: str
    held_out_share: float
    """Share of the documents that was asked for; the splits say what came of it."""
    part_bytes: int
    """Files longer than this were cut into documents."""
    bytes_exact: bool
    """Whether `token_bytes` is exact, or the mean of the held-out text for each token."""
    train: SplitIndex
    held_out: SplitIndex

    def __post_init__(self) -> None:
        if (self.format, self.version) != (FORMAT, VERSION):
            raise ValueError(
                f"format: {self.format} {self.version}, but this motley reads {FORMAT} {VERSION}"
            )
        if self.dtype != token_dtype(self.vocab_size):
            raise ValueError(f"dtype: {self.dtype} does not fit {self.vocab_size} tokens")


@dataclass(frozen=True, eq=False)
class PreparedData:
    """A prepared folder that has been checked; `prepare` or `PreparedData.load` gives one."""

    folder: Path
    index: Index
    train: TokenStream
    held_out: TokenStream
    token_bytes: NDArray[np.float64]
    """[vocab_size] bytes of text that each id stands for; 0 for the end of text."""

    @classmethod
    def load(cls, folder: Path, tokenizer_digest: str | None = None) -> PreparedData:
        """The data of a prepared folder, in time that does not depend on its size.

        `CorpusError` if anything is missing, truncated or foreign; `TokenizerError` if the folder
        was not made with the tokenizer that has `tokenizer_digest`, or not with its own.
        """
        index = _read_index(folder)
        tokenizer_path = folder / TOKENIZER_FILE
        try:
            found = canonical_digest(tokenizer_path.read_text(encoding="utf-8"))
            table = np.load(folder / TOKEN_BYTES_FILE, allow_pickle=False)
        except (OSError, ValueError, EOFError) as cause:
            raise CorpusError(f"{folder}: is damaged: {cause}.", remedy=_REMEDY) from None
        require_digest(tokenizer_path, found, index.tokenizer_digest)
        if tokenizer_digest is not None:
            require_digest(tokenizer_path, found, tokenizer_digest)
        if table.shape != (index.vocab_size,) or table.dtype != np.float64:
            raise CorpusError(f"{folder}: {TOKEN_BYTES_FILE} is damaged.", remedy=_REMEDY)
        train = _open_stream(folder, TRAIN, index, index.train)
        held_out = _open_stream(folder, HELD_OUT, index, index.held_out)
        return cls(folder, index, train, held_out, table)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the shards were made with."""
        return load_tokenizer(self.folder / TOKENIZER_FILE, self.index.tokenizer_digest)


def cache_key(source_digest: str, tokenizer: str, held_out_share: float, shard_tokens: int) -> str:
    """Sixteen hex digits of all that decides what is in a prepared folder.

    `tokenizer` is a given tokenizer's digest, or the vocabulary size of the one to train.
    """
    parts = [FORMAT, VERSION, source_digest, tokenizer, held_out_share, shard_tokens]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _read_index(folder: Path) -> Index:
    path = folder / INDEX_FILE
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CorpusError(
            f"{folder}: no prepared data: {INDEX_FILE} is missing.",
            remedy="Name a folder that motley has prepared.",
        ) from None
    except (OSError, ValueError) as cause:
        raise CorpusError(f"{path}: is damaged: {cause}.", remedy=_REMEDY) from None
    return build(Index, table, str(path), CorpusError)


def _open_stream(folder: Path, split: str, index: Index, entry: SplitIndex) -> TokenStream:
    width = np.dtype(index.dtype).itemsize
    paths = tuple(shard_path(folder, split, n) for n in range(len(entry.shard_tokens)))
    for path, tokens in zip(paths, entry.shard_tokens, strict=True):
        try:
            found = path.stat().st_size
        except OSError as cause:
            reason = cause.strerror or str(cause)
            raise CorpusError(f"{path}: cannot be read: {reason}.", remedy=_REMEDY) from None
        if found != tokens * width:
            raise CorpusError(
                f"{path}: has {found} bytes, but its index says {tokens * width}.", remedy=_REMEDY
            )
    return TokenStream(
        paths, entry.shard_tokens, index.vocab_size, entry.num_bytes, entry.num_documents
    )
