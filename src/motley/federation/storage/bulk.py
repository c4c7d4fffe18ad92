"""Bulk bytes in the store: cut into chunks that are named by their digests.

All chunks are there before anything names them. A chunk that is there is not sent again, so an
upload that broke off goes on where it was; with a cache folder a download does too.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from motley.errors import PayloadError, StoreUnreachableError, VoidObjectError
from motley.federation.keys.encrypt import OVERHEAD_BYTES, GroupCipher
from motley.federation.keys.objects import digest_of
from motley.federation.storage.reference import Bulk, Chunk
from motley.federation.storage.store import Store

T = TypeVar("T")
R = TypeVar("R")

CHUNK_BYTES = 4 * 2**20
MOST_UPDATE_CHUNKS = 64
LARGEST_CHUNK_BYTES = 2**30
COPIES = 8
READS = 2
PARALLEL = 4
"""Transfers at once: enough to fill a link with 50 ms latency, few enough for a small machine."""


def blob_key(digest: str, copy: int) -> str:
    return f"blobs/{digest[:2]}/{digest}.{copy}"


def write_bulk(
    store: Store,
    data: bytes,
    cipher: GroupCipher | None,
    most_chunks: int | None = None,
    *,
    at_once: int = PARALLEL,
) -> Bulk:
    """Stores `data`, so many chunks at once, and says where it lies. May be repeated after any
    error."""
    step = CHUNK_BYTES
    if most_chunks is not None:
        step = max(step, -(-len(data) // most_chunks))
    view = memoryview(data)
    pieces = [view[start : start + step] for start in range(0, len(data), step)]
    chunks = _each(lambda piece: _write_chunk(store, bytes(piece), cipher), pieces, at_once)
    epoch = cipher.epoch if cipher else None
    return Bulk(bytes=len(data), chunks=tuple(chunks), epoch=epoch)


def _write_chunk(store: Store, piece: bytes, cipher: GroupCipher | None) -> Chunk:
    stored = cipher.seal(piece) if cipher else piece
    digest = digest_of(stored)
    for copy in range(COPIES):
        key = blob_key(digest, copy)
        if store.put_new(key, stored) or _get_whole(store, key, digest, len(stored)) is not None:
            return Chunk(digest=digest, bytes=len(stored), copy=copy)
    raise StoreUnreachableError(
        f"the store holds {COPIES} damaged copies of chunk {digest[:12]}.",
        remedy="Look for what writes damaged objects there; delete them; repeat.",
    )


def _get_whole(store: Store, key: str, digest: str, num_bytes: int) -> bytes | None:
    """The object at `key` if it is there and has that digest."""
    try:
        data = store.get(key, num_bytes)
    except VoidObjectError:
        return None
    return data if data is not None and digest_of(data) == digest else None


def read_bulk(
    store: Store,
    bulk: Bulk,
    cipher: GroupCipher | None,
    *,
    max_bytes: int,
    cache: Path | None = None,
) -> bytes:
    """The bytes of a bulk object; `PayloadError` if it is not what its description says.

    `cache` is a folder in which chunks are kept, so that a broken download goes on.
    """
    check_sizes(bulk, cipher is not None, max_bytes)
    pieces = _each(lambda chunk: _read_chunk(store, chunk, cipher, cache), bulk.chunks)
    data = b"".join(pieces)
    if len(data) != bulk.bytes:
        raise PayloadError(f"{len(data)} bytes instead of {bulk.bytes}.", reason="damaged")
    return data


def check_sizes(bulk: Bulk, is_encrypted: bool, max_bytes: int) -> None:
    """`PayloadError` for a description that cannot be right, before anything is fetched."""
    overhead_bytes = len(bulk.chunks) * OVERHEAD_BYTES if is_encrypted else 0
    if bulk.bytes > max_bytes or max(each.bytes for each in bulk.chunks) > LARGEST_CHUNK_BYTES:
        raise PayloadError(f"{bulk.bytes} bytes, more than {max_bytes}.", reason="oversized")
    if bulk.stored_bytes != bulk.bytes + overhead_bytes:
        raise PayloadError("the chunks do not add up to its size.", reason="damaged")


def _read_chunk(
    store: Store, chunk: Chunk, cipher: GroupCipher | None, cache: Path | None
) -> bytes:
    kept = cache / chunk.digest if cache else None
    stored = _read_file(kept, chunk.digest) if kept else None
    if stored is None:
        stored = _fetch(store, chunk)
        if kept:
            _write_file(kept, stored)
    return cipher.open(stored) if cipher else stored


def _fetch(store: Store, chunk: Chunk) -> bytes:
    """Reads again what came damaged: it may have been hurt on the way."""
    key = blob_key(chunk.digest, chunk.copy)
    for _ in range(READS):
        data = _get_whole(store, key, chunk.digest, chunk.bytes)
        if data is not None:
            return data
    if store.size(key) is None:
        raise PayloadError(f"chunk {chunk.digest[:12]} is not there.", reason="missing")
    raise PayloadError(f"chunk {chunk.digest[:12]} is damaged.", reason="damaged")


def _read_file(path: Path, digest: str) -> bytes | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    return data if digest_of(data) == digest else None


def _write_file(path: Path, data: bytes) -> None:
    """Keeps a chunk if the disk takes it; without it the download works as well."""
    partial = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)


def _each(call: Callable[[T], R], items: Iterable[T], at_once: int = PARALLEL) -> list[R]:
    """`call` of each item in order, a few at a time; the first error ends it."""
    items = list(items)
    if len(items) < 2 or at_once < 2:
        return [call(item) for item in items]
    with ThreadPoolExecutor(min(at_once, len(items))) as pool:
        futures = [pool.submit(call, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
