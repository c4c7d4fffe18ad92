"""Text to documents, and which of them are held out for validation.

Each document is held out or not by a hash of its name alone, so the choice is the same on every
machine, in every order, and does not move when other files come or go. A file longer than
`part_bytes` is cut at paragraphs into documents `name#0`, `name#1`, ..., each with a hash of its
own: that bounds memory and makes it possible to hold out a share of one single file.

    for document in read_corpus(("python-stdlib",)):
        print(document.path, document.num_bytes)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from motley.data.files import CorpusFile, Report, hash_name, list_files, reading, silent
from motley.errors import CorpusError

PART_SIZES = (1 << 20, 64 << 10, 16 << 10, 4 << 10, 1 << 10)
"""Bytes above which a file is cut, from the usual one down to what a tiny corpus needs."""

_TOLERANCE = 3.0
"""How many times more or less than the wished share may be held out before files are cut finer."""


@dataclass(frozen=True)
class Document:
    """One piece of text, and the name that decides whether it is held out."""

    path: str
    text: str

    @property
    def num_bytes(self) -> int:
        """Bytes of the text as UTF-8."""
        return len(self.text.encode("utf-8"))


@dataclass(frozen=True)
class Split:
    """How a corpus falls into training and held-out text."""

    part_bytes: int
    """Files longer than this are cut into documents."""
    train_bytes: int
    held_out_bytes: int

    @property
    def held_out_share(self) -> float:
        return self.held_out_bytes / (self.train_bytes + self.held_out_bytes)


def read_corpus(
    sources: tuple[str, ...], part_bytes: int = PART_SIZES[0], report: Report = silent
) -> Iterator[Document]:
    """The documents of `sources` in a fixed order; see `list_files` for what is left out.

    `CorpusError` if a source is missing, binary or empty, or a .jsonl line is not a JSON object
    with a string under "text".
    """
    return read_documents(list_files(sources, report), part_bytes)


def read_documents(files: Iterable[CorpusFile], part_bytes: int) -> Iterator[Document]:
    """The documents of listed files: lines of .jsonl, parts of at most `part_bytes` of others.

    `CorpusError` also if a file is no longer what it was when it was listed.
    """
    for file in files:
        if file.path.suffix == ".jsonl":
            yield from _read_lines(file)
        else:
            yield from _read_parts(file, part_bytes)


def hash_share(name: str) -> float:
    """A number in [0, 1), fixed by `name` and evenly spread over names."""
    return (int.from_bytes(hash_name(name)[:8], "big") >> 11) / 2**53


def is_held_out(path: str, share: float) -> bool:
    """Whether the document named `path` is validation text, when `share` of all is."""
    return hash_share(path) < share


def choose_split(files: tuple[CorpusFile, ...], share: float) -> Split:
    """The coarsest cut that holds out about `share` of the bytes.

    With many files they stay whole. With few, chance could hold out none or most of the text, so
    files are cut ever finer until the share of bytes held out is within three times of `share`;
    the nearest cut is taken if none is. `CorpusError` if every cut leaves one side empty.
    """
    nearest: tuple[float, Split] | None = None
    for part_bytes in PART_SIZES:
        split = _measure_split(files, part_bytes, share)
        if not split.train_bytes or not split.held_out_bytes:
            continue
        distance = _distance(split.held_out_share, share)
        if nearest is None or distance < nearest[0]:
            nearest = (distance, split)
        if distance <= _TOLERANCE:
            break
    if nearest is None:
        total = sum(file.num_bytes for file in files)
        raise CorpusError(
            f"The corpus is too small ({total} bytes) to train on it and hold out {share:g} of it.",
            remedy="Add text, or raise data.held_out_share.",
        )
    return nearest[1]


def _distance(found: float, wished: float) -> float:
    """The factor, at least 1, by which the held-out or the training share is off."""
    held_out, train = found / wished, (1 - found) / (1 - wished)
    return max(held_out, 1 / held_out, train, 1 / train)


def _measure_split(files: tuple[CorpusFile, ...], part_bytes: int, share: float) -> Split:
    sizes = {True: 0, False: 0}
    for document in read_documents(files, part_bytes):
        sizes[is_held_out(document.path, share)] += document.num_bytes
    return Split(part_bytes, train_bytes=sizes[False], held_out_bytes=sizes[True])


def _read_lines(file: CorpusFile) -> Iterator[Document]:
    digest = hashlib.sha256()
    with reading(file.path), file.path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            digest.update(line)
            text = _parse_line(file, number, line) if line.strip() else ""
            if text:
                yield Document(f"{file.name}#{number}", text)
    _require_unchanged(file, digest.hexdigest())


def _parse_line(file: CorpusFile, number: int, line: bytes) -> str:
    try:
        record = json.loads(line)
        text = record["text"] if isinstance(record, dict) else None
        if not isinstance(text, str):
            raise ValueError("not an object with a text")
        text.encode("utf-8")
    except (ValueError, KeyError, RecursionError) as cause:
        reason = 'no "text" key' if isinstance(cause, KeyError) else str(cause)
        raise CorpusError(
            f"{file.path}, line {number}: not a document: {reason}.",
            remedy='Each line of a .jsonl file must be an object like {"text": "..."}.',
        ) from None
    return text


def _read_parts(file: CorpusFile, part_bytes: int) -> Iterator[Document]:
    is_whole = file.num_bytes <= part_bytes
    digest = hashlib.sha256()
    with reading(file.path), file.path.open("rb") as stream:
        for number, part in enumerate(_cut(stream, file.num_bytes, part_bytes)):
            digest.update(part)
            try:
                text = part.decode("utf-8")
            except UnicodeDecodeError:
                break
            yield Document(file.name if is_whole else f"{file.name}#{number}", text)
    _require_unchanged(file, digest.hexdigest())


def _cut(stream: BinaryIO, num_bytes: int, part_bytes: int) -> Iterator[bytes]:
    """The first `num_bytes` of a stream in parts of at most `part_bytes`."""
    rest = b""
    while num_bytes > 0 or rest:
        fresh = stream.read(min(num_bytes, part_bytes - len(rest)))
        num_bytes = num_bytes - len(fresh) if fresh else 0
        block = rest + fresh
        end = _boundary(block) if num_bytes else len(block)
        rest = block[end:]
        if end:
            yield block[:end]


def _boundary(block: bytes) -> int:
    """Where to cut: after the last paragraph, line or word of the second half, or in front of the
    last character. Never inside a character."""
    for mark in (b"\n\n", b"\n", b" "):
        at = block.rfind(mark, len(block) // 2)
        if at >= 0:
            return at + len(mark)
    end = len(block) - 1
    while end > 0 and block[end] & 0xC0 == 0x80:
        end -= 1
    return end


def _require_unchanged(file: CorpusFile, sha256: str) -> None:
    if sha256 != file.sha256:
        raise CorpusError(
            f"{file.path}: changed while it was being read.",
            remedy="Start again when nothing writes to the corpus.",
        )
