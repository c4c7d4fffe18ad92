"""Vocabularies of several sizes on one corpus: how much text a token of each stands for.

A byte-level BPE adds one merge after the other, so the tokenizer of a smaller vocabulary is the
beginning of a larger one: one training gives them all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from motley.data.corpus import choose_split, hash_share, is_held_out, read_documents
from motley.data.files import CorpusFile, Report, list_files
from motley.data.shards import train_on_corpus
from motley.data.tokenizer import MIN_VOCAB_SIZE, Tokenizer, tokenizer_of_json
from motley.errors import TokenizerError

MEASURED_BYTES = 2 << 20
"""Text of each split that is tokenized with every vocabulary."""
ENOUGH_OCCURRENCES = 100
"""Of a token in the training text for its embedding to be learned (Gowda and May 2020, arXiv
2004.02334: the best vocabulary has at least so many for 95 % of its tokens)."""


@dataclass(frozen=True, kw_only=True)
class VocabularyMeasure:
    """One vocabulary on a corpus; measured on samples of it."""

    vocab_size: int
    bytes_per_token: float
    """Of held-out text."""
    rare_share: float
    """Of its tokens that the training text has fewer than `ENOUGH_OCCURRENCES` times."""


def measure_vocabularies(
    sources: tuple[str, ...], sizes: Sequence[int], held_out_share: float, report: Report
) -> tuple[VocabularyMeasure, ...]:
    """A measure for each size, ascending; sizes that the text cannot fill are left out, and said.

    `CorpusError` as `prepare` has it, `TokenizerError` for a size below 257.
    """
    if min(sizes) < MIN_VOCAB_SIZE:
        raise TokenizerError(
            f"A vocabulary of {min(sizes)} has no room for all bytes and the end of text.",
            remedy=f"Compare sizes of {MIN_VOCAB_SIZE} or more.",
        )
    files = list_files(sources, report)
    split = choose_split(files, held_out_share)
    largest = train_on_corpus(files, split, held_out_share, max(sizes), report)
    samples = [
        list(_sample(files, split.part_bytes, held_out_share, held_out=held_out, whole=whole))
        for held_out, whole in ((True, split.held_out_bytes), (False, split.train_bytes))
    ]
    train_bytes = sum(len(text.encode()) for text in samples[1])
    return tuple(
        _measure(smaller(largest, wanted), samples, split.train_bytes / max(1, train_bytes))
        for wanted in sorted(set(sizes))
        if wanted <= largest.vocab_size
    )


def smaller(tokenizer: Tokenizer, vocab_size: int) -> Tokenizer:
    """The tokenizer that training would have given with fewer tokens."""
    table = json.loads(tokenizer.to_json())
    vocabulary, merges = table["model"]["vocab"], table["model"]["merges"]
    fewer = tokenizer.vocab_size - vocab_size
    table["model"]["merges"] = merges[: len(merges) - fewer]
    table["model"]["vocab"] = {text: each for text, each in vocabulary.items() if each < vocab_size}
    return tokenizer_of_json(json.dumps(table), tokenizer.end_of_text)


def _sample(
    files: Iterable[CorpusFile], part_bytes: int, share: float, *, held_out: bool, whole: int
) -> Iterator[str]:
    """About `MEASURED_BYTES` of one split: whole documents, chosen by a hash; always one."""
    is_first = True
    for document in read_documents(files, part_bytes):
        if is_held_out(document.path, share) != held_out:
            continue
        if is_first or hash_share(f"vocabulary:{document.path}") * whole < MEASURED_BYTES:
            yield document.text
        is_first = False


def _measure(tokenizer: Tokenizer, samples: list[list[str]], scale: float) -> VocabularyMeasure:
    held_out, train = ([*map(len, tokenizer.encode_batch(samples[0]))], samples[1])
    num_bytes = sum(len(text.encode()) for text in samples[0])
    counts = np.zeros(tokenizer.vocab_size)
    for tokens in tokenizer.encode_batch(train):
        counts += np.bincount(tokens, minlength=len(counts))
    used = counts[MIN_VOCAB_SIZE:] if len(counts) > MIN_VOCAB_SIZE else counts
    return VocabularyMeasure(
        vocab_size=tokenizer.vocab_size,
        bytes_per_token=num_bytes / max(1, sum(held_out)),
        rare_share=float((used * scale < ENOUGH_OCCURRENCES).mean()),
    )
