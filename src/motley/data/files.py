"""The files of a corpus: which they are, what they hold, and one digest for all of them.

A source is the word "python-stdlib", a text file, a folder or a .jsonl file. Each file is read
once here, to tell text from binary and to hash it, so that the same content on another machine
gets the same digest, and a file that stands in two places is taken once: a copy in both the
training and the held-out text would flatter the validation.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from motley.errors import CorpusError

STANDARD_LIBRARY = "python-stdlib"
"""The source that needs no download: the interpreter's own library."""

Report = Callable[[str], None]
"""Takes one line for the user."""

_SOURCES = f'Name text files, folders, .jsonl files or "{STANDARD_LIBRARY}".'
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class CorpusFile:
    """One UTF-8 text file of a corpus."""

    path: Path
    name: str
    """Relative to the source's root, with '/', so that it is the same on any machine."""
    num_bytes: int
    sha256: str


def silent(message: str) -> None:
    """A `Report` that says nothing."""


def list_files(sources: Iterable[str], report: Report = silent) -> tuple[CorpusFile, ...]:
    """The text files of `sources`, in the sources' order and sorted inside each folder.

    Hidden, binary and empty files of a folder and copies of files seen before are left out, with
    a count to `report`. `CorpusError` if a source is missing, unreadable or has no text.
    """
    sources = tuple(sources)
    if not sources:
        raise CorpusError("The corpus names no text.", remedy=_SOURCES)
    files: list[CorpusFile] = []
    seen: set[str] = set()
    for source in sources:
        files += _list_source(source, seen, report)
    return tuple(files)


def content_digest(files: Iterable[CorpusFile]) -> str:
    """sha256 (hex) over the name, size and sha256 of each file, in order."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(hash_name(f"{file.name}\0{file.num_bytes}\0{file.sha256}"))
    return digest.hexdigest()


def hash_name(name: str) -> bytes:
    """sha256 of a name; a file name that is not UTF-8 counts by its bytes."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns the system's refusal to read `path` into a `CorpusError`."""
    try:
        yield
    except OSError as cause:
        raise CorpusError(
            f"{path}: cannot be read: {cause.strerror or cause}.",
            remedy="Make it readable, or take it out of the corpus.",
        ) from None


def _list_source(source: str, seen: set[str], report: Report) -> list[CorpusFile]:
    root, names = _candidates(source)
    is_single = source != STANDARD_LIBRARY and Path(source).is_file()
    left_out: Counter[str] = Counter()
    files = []
    for name in names:
        path = root / name
        found = _examine(path)
        if isinstance(found, str):
            if is_single:
                raise CorpusError(
                    f"{path}: is {found}.", remedy="A corpus is UTF-8 text: convert it first."
                )
            left_out[found] += 1
        elif found.sha256 in seen:
            left_out["a copy"] += 1
        else:
            seen.add(found.sha256)
            files.append(CorpusFile(path, name, found.num_bytes, found.sha256))
    if not files and not left_out["a copy"]:
        raise CorpusError(f"{source}: holds no text file.", remedy=_SOURCES)
    if left_out:
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
        report(f"{source}: {len(files)} text files; left out because they are: {counts}.")
    return files


def _candidates(source: str) -> tuple[Path, list[str]]:
    """The root of a source and the names of its files below it, sorted."""
    if source == STANDARD_LIBRARY:
        root = Path(sysconfig.get_paths()["stdlib"])
        names = [name for name in _walk(root, {"site-packages", "dist-packages"}) if _is_py(name)]
        if not names:
            raise CorpusError(
                f"This interpreter's library ({root}) is not installed as source text.",
                remedy="Name text files of your own in data.corpus.",
            )
        return root, names
    path = Path(source)
    if path.is_dir():
        return path, _walk(path, set())
    if path.is_file():
        return path.parent, [path.name]
    problem = "is neither a file nor a folder" if path.exists() else "no such file or folder"
    raise CorpusError(f"{source}: {problem}.", remedy=_SOURCES)


def _is_py(name: str) -> bool:
    return name.endswith(".py")


def _walk(root: Path, excluded: set[str]) -> list[str]:
    def refuse(cause: OSError) -> None:
        raise cause

    names: list[str] = []
    with reading(root):
        for folder, folders, files in os.walk(root, onerror=refuse):
            folders[:] = [
                name
                for name in folders
                if not name.startswith(".") and name != "__pycache__" and name not in excluded
            ]
            below = Path(folder).relative_to(root)
            names += [
                (below / name).as_posix()
                for name in files
                if not name.startswith(".") and os.path.isfile(os.path.join(folder, name))
            ]
    return sorted(names)


@dataclass(frozen=True)
class _Content:
    num_bytes: int
    sha256: str


def _examine(path: Path) -> _Content | str:
    """Size and hash of a text file; for any other, why it is not taken."""
    digest = hashlib.sha256()
    decoder = codecs.getincrementaldecoder("utf-8")()
    num_bytes = 0
    with reading(path), path.open("rb") as stream:
        try:
            while block := stream.read(_BLOCK_BYTES):
                if b"\0" in block:
                    return "binary"
                decoder.decode(block)
                digest.update(block)
                num_bytes += len(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "not UTF-8"
    return _Content(num_bytes, digest.hexdigest()) if num_bytes else "empty"
