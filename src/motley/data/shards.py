"""Sources to a folder of token shards, made once and found again by the digest of what went in.

A prepared folder is `<cache>/<key>-<suffix>/`. It is built under a temporary name and renamed when
it is whole. The suffix is new for each build, so processes that prepare the same data at the same
time never touch each other's files; all then take the first whole folder of the key.

    data = prepare(("python-stdlib",), None, 4096, 0.05, Path("cache"), print)
    data.train.read(0, 100)
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from motley.data.cache import temporary_folder
from motley.data.corpus import (
    Document,
    Split,
    choose_split,
    hash_share,
    is_held_out,
    read_documents,
)
from motley.data.files import CorpusFile, Report, content_digest, list_files
from motley.data.prepared import (
    FORMAT,
    HELD_OUT,
    INDEX_FILE,
    TOKEN_BYTES_FILE,
    TOKENIZER_FILE,
    TRAIN,
    VERSION,
    Index,
    PreparedData,
    SplitIndex,
    cache_key,
)
from motley.data.streams import SHARD_TOKENS, ShardWriter, TokenStream, token_dtype
from motley.data.tokenizer import Tokenizer, load_tokenizer, token_bytes, train_tokenizer
from motley.errors import CorpusError, TokenizerError
from motley.units import percent, si, size

__all__ = ["PreparedData", "TokenStream", "prepare"]

TOKENIZER_TRAINING_BYTES = 8 << 20
"""Text that a tokenizer is trained on; more takes longer and hardly changes a small vocabulary."""

_PIECE_CHARS = 64 << 10
_BATCH_BYTES = 4 << 20
"""Text that is tokenized at once, which bounds the memory."""


def prepare(
    sources: tuple[str, ...],
    tokenizer_path: Path | None,
    vocab_size: int,
    held_out_share: float,
    cache: Path,
    report: Report,
    *,
    shard_tokens: int = SHARD_TOKENS,
    earlier_key: str | None = None,
) -> PreparedData:
    """The token shards of `sources`, from `cache` if they are there, else made and put there.

    `tokenizer_path` names a Hugging Face tokenizer.json; without one a byte-level BPE of
    `vocab_size` ids is trained on the training documents. `held_out_share` of the documents is
    kept for validation. `report` gets a line for each choice and step. `earlier_key` is that of
    data whose tokenizer was trained and is now given: the same text gets the same key. Safe to
    call from several processes at once. `CorpusError`, `TokenizerError`, or `StorageError` if the
    cache cannot be written; nothing half-written stays behind.
    """
    files = list_files(sources, report)
    given = load_tokenizer(tokenizer_path) if tokenizer_path else None
    source_digest = content_digest(files)
    key = cache_key(source_digest, str(vocab_size), held_out_share, shard_tokens)
    if given and key != earlier_key:
        key = cache_key(source_digest, given.digest, held_out_share, shard_tokens)
    found = _find(cache, key, given, report)
    if found is not None:
        report(f"Tokens: taken from {found.folder}, made earlier from the same text.")
        return found
    split = choose_split(files, held_out_share)
    _report_split(files, split, report)
    with temporary_folder(cache, "the token shards") as folder:
        tokenizer = given or train_on_corpus(files, split, held_out_share, vocab_size, report)
        job = _Job(folder, files, tokenizer, split, held_out_share, shard_tokens)
        _write_folder(job, key, source_digest, report)
        published = _find(cache, key, given, report)
        if published is None:
            target = cache / f"{key}-{secrets.token_hex(4)}"
            folder.rename(target)
            published = PreparedData.load(target)
    _report_streams(published, report)
    return published


@dataclass(frozen=True)
class _Job:
    folder: Path
    files: tuple[CorpusFile, ...]
    tokenizer: Tokenizer
    split: Split
    held_out_share: float
    shard_tokens: int


def _find(cache: Path, key: str, given: Tokenizer | None, report: Report) -> PreparedData | None:
    """The first whole folder of `key`, made with the `given` tokenizer if there is one; damaged
    ones are removed, with a message."""
    for folder in sorted(cache.glob(f"{key}-*")):
        try:
            data = PreparedData.load(folder)
            if given and data.index.tokenizer_digest != given.digest:
                continue
            if data.index.key == key:
                return data
            problem = f"{folder}: was made from other text."
        except (CorpusError, TokenizerError) as cause:
            problem = cause.message
        report(f"{problem} It is removed and made again.")
        shutil.rmtree(folder, ignore_errors=True)
    return None


def train_on_corpus(
    files: tuple[CorpusFile, ...], split: Split, share: float, vocab_size: int, report: Report
) -> Tokenizer:
    """A tokenizer of the training documents of listed files, or of a sample if they are large."""
    documents = (
        document
        for document in read_documents(files, split.part_bytes)
        if not is_held_out(document.path, share)
    )
    pieces = _sample_pieces(documents, TOKENIZER_TRAINING_BYTES / split.train_bytes)
    tokenizer = train_tokenizer(pieces, vocab_size)
    sampled = min(TOKENIZER_TRAINING_BYTES, split.train_bytes)
    report(
        f"Tokenizer: byte-level BPE of {tokenizer.vocab_size} tokens, trained on about "
        f"{size(sampled)} of the training text."
    )
    if tokenizer.vocab_size < vocab_size:
        report(f"Tokenizer: the text has no more pairs to merge, so not {vocab_size} tokens.")
    return tokenizer


def _sample_pieces(documents: Iterator[Document], share: float) -> Iterator[str]:
    """About `share` of the text, in pieces chosen by a hash; the first piece always."""
    is_first = True
    for document in documents:
        for start in range(0, len(document.text), _PIECE_CHARS):
            name = f"tokenizer:{document.path}:{start}"
            if is_first or hash_share(name) < share:
                yield document.text[start : start + _PIECE_CHARS]
            is_first = False


def _write_folder(job: _Job, key: str, source_digest: str, report: Report) -> None:
    tokenizer = job.tokenizer
    tokenizer.save(job.folder / TOKENIZER_FILE)
    table = token_bytes(tokenizer)
    splits, bytes_exact = _write_shards(job, table)
    if not bytes_exact:
        held_out = splits[HELD_OUT]
        per_token = _spread_evenly(table, held_out, tokenizer.end_of_text)
        report(
            "Bits per byte: this tokenizer does not keep every byte of the text, so each token "
            f"counts as the held-out text's mean of {per_token:.3f} bytes."
        )
    np.save(job.folder / TOKEN_BYTES_FILE, table)
    index = Index(
        format=FORMAT,
        version=VERSION,
        key=key,
        dtype=token_dtype(tokenizer.vocab_size),
        vocab_size=tokenizer.vocab_size,
        end_of_text=tokenizer.end_of_text,
        tokenizer_digest=tokenizer.digest,
        source_digest=source_digest,
        held_out_share=job.held_out_share,
        part_bytes=job.split.part_bytes,
        bytes_exact=bytes_exact,
        train=splits[TRAIN],
        held_out=splits[HELD_OUT],
    )
    text = json.dumps(asdict(index), indent=2)
    (job.folder / INDEX_FILE).write_text(text + "\n", encoding="utf-8")


def _spread_evenly(table: NDArray[np.float64], held_out: SplitIndex, end_of_text: int) -> float:
    """Set `table` to the mean bytes of a held-out token, which is returned."""
    num_text_tokens = sum(held_out.shard_tokens) - held_out.num_documents
    per_token = held_out.num_bytes / max(1, num_text_tokens)
    table[:] = per_token
    table[end_of_text] = 0
    return per_token


def _write_shards(job: _Job, table: NDArray[np.float64]) -> tuple[dict[str, SplitIndex], bool]:
    """Write both splits; also whether `table` gives the bytes of every document exactly."""
    num_documents = {TRAIN: 0, HELD_OUT: 0}
    num_bytes = {TRAIN: 0, HELD_OUT: 0}
    bytes_exact = True
    vocab_size, shard_tokens = job.tokenizer.vocab_size, job.shard_tokens
    with (
        ShardWriter(job.folder, TRAIN, vocab_size, shard_tokens) as train,
        ShardWriter(job.folder, HELD_OUT, vocab_size, shard_tokens) as held_out,
    ):
        writers = {TRAIN: train, HELD_OUT: held_out}
        for document, ids in _tokenize(job):
            split = HELD_OUT if is_held_out(document.path, job.held_out_share) else TRAIN
            writers[split].append([*ids, job.tokenizer.end_of_text])
            num_documents[split] += 1
            num_bytes[split] += document.num_bytes
            bytes_exact = bytes_exact and bool(table[ids].sum() == document.num_bytes)
    if any(sum(writer.counts) <= num_documents[split] for split, writer in writers.items()):
        raise TokenizerError(
            "The tokenizer makes no tokens of the corpus.",
            remedy="Check that data.tokenizer fits the language of the text.",
        )
    splits = {
        split: SplitIndex(
            num_documents=num_documents[split],
            num_bytes=num_bytes[split],
            shard_tokens=tuple(writer.counts),
        )
        for split, writer in writers.items()
    }
    return splits, bytes_exact


def _tokenize(job: _Job) -> Iterator[tuple[Document, list[int]]]:
    """Each document with its ids, tokenized in batches."""
    batch: list[Document] = []
    num_chars = 0
    end = Document("", "")
    for document in chain(read_documents(job.files, job.split.part_bytes), [end]):
        if batch and (document is end or num_chars + len(document.text) > _BATCH_BYTES):
            texts = [member.text for member in batch]
            yield from zip(batch, job.tokenizer.encode_batch(texts), strict=True)
            batch, num_chars = [], 0
        batch.append(document)
        num_chars += len(document.text)


def _report_split(files: tuple[CorpusFile, ...], split: Split, report: Report) -> None:
    total = split.train_bytes + split.held_out_bytes
    report(
        f"Corpus: {len(files)} files, {size(total)}; {size(split.held_out_bytes)} "
        f"({percent(split.held_out_share)}) held out for validation."
    )
    longest = max(file.num_bytes for file in files)
    if longest > split.part_bytes:
        report(
            f"Corpus: files above {size(split.part_bytes)} are cut into documents at paragraphs."
        )


def _report_streams(data: PreparedData, report: Report) -> None:
    report(
        f"Tokens: {si(data.train.num_tokens)} to train on, {si(data.held_out.num_tokens)} held "
        f"out, in {data.folder}."
    )
