"""The object store that all parties of a federation can reach: a folder, S3, GCS or Azure.

Four calls are enough: put-if-absent, get, size, list. Each is tried a few times; time-outs count
bytes and not the whole transfer. What fails for good is a `StoreError`, what may work later a
`StoreUnreachableError`; neither leaves half an object behind.

    store = open_store("s3://bucket/prefix")      # or a folder
    check_put_if_absent(store)
"""

from __future__ import annotations

import os
import random
import re
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import obstore
from obstore import exceptions
from obstore.store import LocalStore, MemoryStore, from_url

from motley.errors import StoreError, StoreUnreachableError, VoidObjectError, nearest
from motley.units import size

T = TypeVar("T")

ATTEMPTS = 4
FIRST_PAUSE_S = 0.1
CONNECT_S = 10.0
STALL_S = 30.0
"""A transfer in which no byte comes for so long has failed."""
SLOWEST_BYTES_PER_S = 32e3
"""An upload gives no sign while it runs: one of more than `SMALL_BYTES` may last longer by what the
rest of its bytes, rounded up to a power of two, takes at this rate."""
SMALL_BYTES = 64 * 2**10
AT_ONCE_BYTES = 8 * 2**20
"""An object up to this size is read in one piece; a larger one goes on where it was broken off."""
CLOUD_SCHEMES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "https", "http")
METADATA_SERVER = "169.254.169.254"
"""Where machines of a cloud get credentials; asked where nobody has given any."""
STATUS = re.compile(r"Server returned non-2xx status code: (\d{3})")
"""How obstore words a server's answer. The object's key stands before it and has no spaces."""
CREDENTIALS = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for s3://, GOOGLE_APPLICATION_CREDENTIALS for "
    "gs://, AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY for az://; the profiles of "
    "aws's own files are not read."
)
RACERS = 16


@dataclass
class Traffic:
    """What went over the store's calls so far; counted once, whatever was repeated."""

    sent_bytes: int = 0
    received_bytes: int = 0
    calls: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count(self, *, sent_bytes: int = 0, received_bytes: int = 0) -> None:
        with self._lock:
            self.calls += 1
            self.sent_bytes += sent_bytes
            self.received_bytes += received_bytes


class Entry(NamedTuple):
    """An object in a listing."""

    key: str
    modified_s: float
    """When it was written, by the store's own clock, in seconds of the Unix epoch."""


class Store(Protocol):
    """All that a federation asks of a store. Safe to use from several threads."""

    @property
    def traffic(self) -> Traffic:
        """What has gone over its calls."""

    def put_new(self, key: str, data: bytes) -> bool:
        """Writes the object if the key is free; whether it was. All or nothing."""

    def get(self, key: str, max_bytes: int) -> bytes | None:
        """The object, None if there is none; `VoidObjectError` if it has more than `max_bytes`."""

    def size(self, key: str) -> int | None:
        """The object's bytes, None if there is none."""

    def list(self, prefix: str, after: str = "") -> list[Entry]:
        """What is in the folder `prefix`, by key; with `after`, only what is behind that key."""


class ObjectStore:
    """A store reached through `obstore`."""

    def __init__(self, reader: Any, writer_of: Callable[[int], Any], place: str) -> None:
        """`writer_of` gives the client for an upload of so many bytes."""
        self._reader = reader
        self._writer_of = writer_of
        self.place = place
        self.traffic = Traffic()

    def put_new(self, key: str, data: bytes) -> bool:
        tried = 0

        def put() -> bool:
            nonlocal tried
            tried += 1
            try:
                obstore.put(
                    self._writer_of(len(data)), key, data, mode="create", use_multipart=False
                )
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
                # A try before this one may have arrived though no answer came back.
                return tried > 1 and self.get(key, len(data)) == data
            return True

        try:
            is_new = self._attempt(put, f"write {key}")
        except VoidObjectError:
            is_new = False
        self.traffic.count(sent_bytes=len(data))
        return is_new

    def get(self, key: str, max_bytes: int) -> bytes | None:
        got = bytearray()

        def read() -> bytes | None:
            options: Any = {"range": {"offset": len(got)}} if got else None
            try:
                result = obstore.get(self._reader, key, options=options)
            except (exceptions.NotFoundError, FileNotFoundError):
                return None
            if result.meta["size"] > max_bytes:
                raise VoidObjectError(f"{key}: {size(result.meta['size'])}, more than is allowed")
            if not got and result.meta["size"] <= AT_ONCE_BYTES:
                return bytes(result.bytes())
            for piece in result.stream(min_chunk_size=2**20):
                got.extend(memoryview(piece))
            return bytes(got)

        data = self._attempt(read, f"read {key}")
        self.traffic.count(received_bytes=len(data or b""))
        return data

    def size(self, key: str) -> int | None:
        def look() -> int | None:
            try:
                return obstore.head(self._reader, key)["size"]
            except (exceptions.NotFoundError, FileNotFoundError):
                return None

        self.traffic.count()
        return self._attempt(look, f"look for {key}")

    def list(self, prefix: str, after: str = "") -> list[Entry]:
        def look() -> list[Entry]:
            pages = obstore.list(self._reader, prefix, offset=after or None, chunk_size=1000)
            metas = (meta for page in pages for meta in page)
            return sorted(Entry(each["path"], each["last_modified"].timestamp()) for each in metas)

        self.traffic.count()
        return self._attempt(look, f"list {prefix}")

    def _attempt(self, call: Callable[[], T], what: str) -> T:
        """`call`, repeated after errors that may pass."""
        for attempt in range(ATTEMPTS):
            try:
                return call()
            except (exceptions.BaseError, OSError) as cause:
                failure = explain(cause, what, self.place)
                if not isinstance(failure, StoreUnreachableError) or attempt == ATTEMPTS - 1:
                    raise failure from None
            time.sleep(FIRST_PAUSE_S * 2**attempt * (0.5 + random.random()))
        raise AssertionError("the last attempt returns or raises")


def explain(cause: Exception, what: str, place: str) -> StoreError:
    """Our error for one of the store's."""
    text = _words(cause)
    status = _status(cause)
    if METADATA_SERVER in text:
        return StoreError(
            f"{place}: no credentials were found, in the environment or from a machine of its "
            f"cloud: cannot {what}.",
            remedy=CREDENTIALS,
        )
    denied = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError, PermissionError)
    if isinstance(cause, denied) or status in (401, 403):
        return StoreError(
            f"{place} refuses to {what}: {text}.",
            remedy="Check the credentials, and that they may read, list and write there.",
        )
    if isinstance(cause, exceptions.NotFoundError | FileNotFoundError) or status == 404:
        return StoreError(
            f"{place} is not there: cannot {what}: {text}.",
            remedy="Check the name of the bucket or folder.",
        )
    if isinstance(cause, exceptions.NotSupportedError) or status == 501:
        return StoreError(
            f"{place} does not support what is needed to {what}: {text}.",
            remedy="Use a store with conditional writes (put-if-absent).",
        )
    if "No space left" in text or "os error 28" in text:
        return StoreUnreachableError(
            f"{place} is full: cannot {what}.",
            remedy="Free space there; nothing is lost, and the transfer goes on where it was.",
        )
    return StoreUnreachableError(
        f"{place} does not answer: cannot {what}: {text}.",
        remedy="Check the network and the store; the call can be repeated.",
    )


def _words(cause: Exception) -> str:
    """What the store's library says, without the insides that it adds."""
    return " ".join(str(cause).partition("Debug source")[0].split())[:300].rstrip(". ")


def _status(cause: Exception) -> int | None:
    """The HTTP status of the server's answer; None if there was none. Only some statuses have an
    exception of their own, and none of them in a listing."""
    found = STATUS.search(str(cause))
    return int(found[1]) if found else None


def open_store(url: str, *, create: bool = False, stall_s: float = STALL_S) -> ObjectStore:
    """The store at `url`: a folder, `s3://`, `gs://`, `az://` or an `https://` address of one.

    Credentials come from where the store's own tools look (for S3: `AWS_ACCESS_KEY_ID`,
    `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT_URL`). `create` makes a missing folder.
    A transfer over the network that gives no sign of life for `stall_s` has failed.
    """
    if not url.strip():
        raise StoreError("the store's address is empty.", remedy="Name a folder or a store.")
    scheme, separator, _ = url.partition("://")
    if not separator or scheme == "file":
        return _open_folder(Path(url.removeprefix("file://")), create=create)
    if scheme not in CLOUD_SCHEMES:
        raise StoreError(
            f"{url}: unknown kind of store '{scheme}'.",
            remedy=nearest(scheme, CLOUD_SCHEMES) or f"Known: {', '.join(CLOUD_SCHEMES)}.",
        )
    writer = cache(partial(_open_cloud, url))
    try:
        return ObjectStore(
            _open_cloud(url, read_timeout=stall_s, timeout=24 * 3600.0),
            lambda num_bytes: writer(timeout=_upload_s(num_bytes, stall_s)),
            url,
        )
    except (exceptions.BaseError, ValueError) as cause:
        raise StoreError(
            f"{url} cannot be opened: {_words(cause)}.",
            remedy=f"Check the address and the region. {CREDENTIALS}",
        ) from None


def _upload_s(num_bytes: int, stall_s: float) -> float:
    """How long an upload may last. A client has one time-out: sizes are rounded up, so that a few
    clients are enough."""
    if num_bytes <= SMALL_BYTES:
        return stall_s
    rest = max(num_bytes - SMALL_BYTES, SMALL_BYTES)
    return stall_s + (1 << (rest - 1).bit_length()) / SLOWEST_BYTES_PER_S


def _open_cloud(url: str, **timeouts_s: float) -> Any:
    options: Any = {name: timedelta(seconds=value) for name, value in timeouts_s.items()}
    options["connect_timeout"] = timedelta(seconds=CONNECT_S)
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise StoreError(
            f"AWS_ENDPOINT_URL is '{endpoint}', which is no address.",
            remedy="Begin it with http:// or https://, or unset it.",
        )
    if endpoint.startswith("http://"):
        options["allow_http"] = True
    retries: Any = {"max_retries": 0, "retry_timeout": timedelta(seconds=1)}
    return from_url(url, client_options=options, retry_config=retries)


def _open_folder(path: Path, *, create: bool) -> ObjectStore:
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path} is a file, not a folder.", remedy="Name a folder or a store.")
    if not path.is_dir() and not create:
        raise StoreError(f"{path}: no such folder.", remedy="Check the path of the store.")
    try:
        store = LocalStore(path.resolve(), mkdir=True)
    except (exceptions.BaseError, OSError) as cause:
        raise StoreError(f"{path} cannot be used: {cause}.") from None
    return ObjectStore(store, lambda num_bytes: store, str(path))


def memory_store() -> ObjectStore:
    """A store in this process's memory, for trying things out."""
    store = MemoryStore()
    return ObjectStore(store, lambda num_bytes: store, "memory")


def check_put_if_absent(store: Store) -> None:
    """`StoreError` unless of several racing writers exactly one wins and its bytes stay."""
    key = f"probe/{secrets.token_hex(16)}"
    texts = [f"writer {number}".encode() for number in range(RACERS)]
    with ThreadPoolExecutor(RACERS) as pool:
        won = list(pool.map(lambda text: store.put_new(key, text), texts))
    again = store.put_new(key, b"too late")
    kept = store.get(key, 100)
    winners = [text for text, is_winner in zip(texts, won, strict=True) if is_winner]
    if winners != [kept] or again:
        raise StoreError(
            f"the store has no put-if-absent: of {RACERS} writers of one key {len(winners)} won"
            f"{', and a later one replaced it' if again else ''}.",
            remedy="Use a folder on one file system, or a store with conditional writes "
            "(If-None-Match), such as S3, GCS, Azure or a recent MinIO.",
        )
