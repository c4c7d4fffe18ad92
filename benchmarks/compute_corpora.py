"""The two texts of `compute.py`, the same bytes on every machine with the project's environment.

`python`: the source text of the standard library of Python 3.11.7, file by file as listed with name
and sha256 in `compute_python.sha256`. What is particular to a build (`_sysconfigdata*`, `config-*`)
is not on the list, nor are copies and what is not UTF-8. A file that this interpreter has otherwise
is left out, which changes the digest: then figures are kept apart and it is said.

`prose`: English technical prose, the documentation texts inside botocore, a wheel that
`constraints.txt` pins and `make setup` installs. Of every service's model the values of all keys
named "documentation", in the order of the file; cut at block elements; tags taken out, entities
resolved, white space made one space; passages below 40 characters and those seen before (in any
service) left out; one passage a line, one file a service.

Held out in both: 5 % of the files by a hash of their name, as the product does it.

    python benchmarks/compute_corpora.py    # makes both, prints their sizes and digests
"""

from __future__ import annotations

import gzip
import hashlib
import html
import json
import platform
import re
import secrets
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path
from typing import Any

from motley.data.files import STANDARD_LIBRARY, content_digest, list_files, silent
from motley.train.prepare import cache_folder

LISTED = Path(__file__).with_name("compute_python.sha256")
PINNED = {
    "python": "f93e0c7a2693061a6a5d09cfb4a6e996859e0751c2711d884621495d1f758bfb",
    "prose": "d059621b840376d0d5fdfc3052fdb591917da9d5d84ea1c4ced840178d4e1f9d",
}
"""`content_digest` of each text on a machine with the pinned versions."""
CORPORA = ("python", "prose")

_BLOCKS = re.compile(
    r"</?(?:p|li|ul|ol|dl|dt|dd|br|note|important|div|table|tr|td|th|h\d)\b[^>]*>", re.IGNORECASE
)
_TAGS = re.compile(r"<[^>]*>")
_OF_A_BUILD = re.compile(r"_sysconfigdata|config-")
_SHORTEST = 40
"""Characters of a passage."""


def corpus_folder(name: str) -> Path:
    """The folder with one of `CORPORA`, made whole if it is not there yet."""
    version = platform.python_version() if name == "python" else metadata.version("botocore")
    target = cache_folder().parent / "compute" / f"{name}-{version}"
    if target.is_dir():
        return target
    partial = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
    for file, text in _listed() if name == "python" else _services():
        (partial / file).parent.mkdir(parents=True, exist_ok=True)
        (partial / file).write_bytes(text)
    try:
        partial.rename(target)
    except OSError:  # another process has made it meanwhile
        shutil.rmtree(partial)
    return target


def write_list() -> None:
    """Writes the list of the standard library's files anew: for another pinned version."""
    files = list_files((STANDARD_LIBRARY,), silent)
    lines = [f"{file.sha256}  {file.name}" for file in files if not _OF_A_BUILD.match(file.name)]
    LISTED.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _listed() -> Iterator[tuple[str, bytes]]:
    """(name, content) of the listed files that this interpreter has as they are listed."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for line in LISTED.read_text(encoding="utf-8").splitlines():
        digest, name = line.split("  ", 1)
        path = root / name
        content = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(content).hexdigest() == digest:
            yield name, content


def _services() -> Iterator[tuple[str, bytes]]:
    """(file of a service and version, its passages)."""
    spec = util.find_spec("botocore")
    if spec is None or spec.origin is None:
        raise SystemExit("botocore is missing: make the environment with 'make setup'")
    root = Path(spec.origin).parent / "data"
    seen: set[str] = set()
    for path in sorted(root.glob("*/*/service-2.json*")):
        raw = path.read_bytes()
        model = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
        passages = []
        for text in _documentation(model):
            for passage in map(_plain, _BLOCKS.split(text)):
                if len(passage) >= _SHORTEST and passage not in seen:
                    seen.add(passage)
                    passages.append(passage)
        if passages:
            name = "-".join(path.parent.relative_to(root).parts) + ".txt"
            yield name, ("\n".join(passages) + "\n").encode()


def _documentation(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "documentation" and isinstance(inner, str):
                yield inner
            else:
                yield from _documentation(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _documentation(inner)


def _plain(text: str) -> str:
    return " ".join(html.unescape(_TAGS.sub("", text)).split())


if __name__ == "__main__":
    if sys.argv[1:] == ["--write-list"]:
        write_list()
    for corpus in CORPORA:
        listed = list_files((str(corpus_folder(corpus)),), silent)
        size = sum(file.num_bytes for file in listed)
        print(f"{corpus}: {len(listed)} files, {size} bytes, digest {content_digest(listed)}")
