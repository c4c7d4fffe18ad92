"""Stores, bulk bytes, encryption, the emulated link: real folders, real threads."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore.exceptions import GenericError

from motley.chips.chip import Link
from motley.errors import (
    PayloadError,
    StoreError,
    StoreUnreachableError,
    VoidObjectError,
)
from motley.federation.keys.encrypt import OVERHEAD_BYTES, GroupCipher
from motley.federation.storage.bulk import CHUNK_BYTES, blob_key, read_bulk, write_bulk
from motley.federation.storage.shaped import ShapedStore
from motley.federation.storage.store import (
    Entry,
    ObjectStore,
    Store,
    check_put_if_absent,
    explain,
    memory_store,
    open_store,
)

KEY = bytes(range(32))
BIG = random.Random(0).randbytes(3 * CHUNK_BYTES + 10)


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "memory":
        return memory_store()
    return open_store(str(tmp_path / "store"), create=True)


def test_the_four_calls(store: ObjectStore) -> None:
    assert store.put_new("a/one", b"1")
    assert not store.put_new("a/one", b"2")
    assert store.put_new("a/two", b"22")
    assert store.get("a/one", 10) == b"1"
    assert (store.size("a/two"), store.size("a/none"), store.get("a/none", 9)) == (2, None, None)
    assert [entry.key for entry in store.list("a")] == ["a/one", "a/two"]
    assert [entry.key for entry in store.list("a", after="a/one")] == ["a/two"]
    assert abs(store.list("a")[0].modified_s - time.time()) < 3600
    assert store.list("b") == []
    with pytest.raises(VoidObjectError, match="more than is allowed"):
        store.get("a/two", 1)
    assert store.traffic.sent_bytes == 4
    assert store.traffic.received_bytes == 1


def test_of_many_racing_writers_one_wins(store: ObjectStore) -> None:
    check_put_if_absent(store)
    texts = [f"writer {n}".encode() for n in range(32)]
    with ThreadPoolExecutor(32) as pool:
        won = list(pool.map(lambda text: store.put_new("race", text), texts))
    assert [text for text, is_winner in zip(texts, won, strict=True) if is_winner] == [
        store.get("race", 100)
    ]


class Overwriting(ObjectStore):
    """What a store does that knows no conditional writes."""

    def put_new(self, key: str, data: bytes) -> bool:
        self.data = {**getattr(self, "data", {}), key: data}
        return True

    def get(self, key: str, max_bytes: int) -> bytes | None:
        found: bytes | None = self.data.get(key)
        return found


def test_a_store_without_put_if_absent_is_refused() -> None:
    with pytest.raises(StoreError, match="no put-if-absent"):
        check_put_if_absent(Overwriting(None, lambda num_bytes: None, "old"))


def test_addresses_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for url, message in (
        (str(tmp_path / "none"), "no such folder"),
        (str(tmp_path / "file"), "is a file"),
        ("s4://bucket", "unknown kind of store 's4'"),
        ("", "address is empty"),
        ("s3://", "cannot be opened: "),
    ):
        with pytest.raises(StoreError, match=message) as caught:
            open_store(url, create=not url)
        assert "Debug source" not in caught.value.message


def test_an_endpoint_that_is_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1:9000")
    with pytest.raises(StoreError, match=r"AWS_ENDPOINT_URL is '127\.0\.0\.1:9000'") as caught:
        open_store("s3://bucket/prefix")
    assert "http://" in caught.value.remedy


@pytest.mark.parametrize("reply", ["server returned 403 Forbidden", "error sending request"])
def test_who_has_given_no_credentials_is_told_so(reply: str) -> None:
    cause = GenericError(f"Generic S3 error: PUT http://169.254.169.254/latest/api/token: {reply}")
    told = explain(cause, "read charter.json", "s3://bucket")
    assert "no credentials were found" in told.message
    assert "AWS_ACCESS_KEY_ID" in told.remedy
    assert not isinstance(told, StoreUnreachableError)


def test_a_store_that_nobody_answers_at(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
        ("AWS_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    store = open_store("s3://bucket/prefix")
    with pytest.raises(StoreUnreachableError, match="does not answer"):
        store.put_new("key", b"data")


class Lossy:
    """Loses what its `hook` says."""

    def __init__(self, store: Store) -> None:
        self.store, self.puts, self.fail_at = store, 0, -1
        self.traffic = store.traffic

    def put_new(self, key: str, data: bytes) -> bool:
        self.puts += 1
        if self.puts == self.fail_at:
            raise StoreUnreachableError("the store is full.")
        return self.store.put_new(key, data)

    def get(self, key: str, max_bytes: int) -> bytes | None:
        return self.store.get(key, max_bytes)

    def size(self, key: str) -> int | None:
        return self.store.size(key)

    def list(self, prefix: str, after: str = "") -> list[Entry]:
        return self.store.list(prefix, after)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB."""
    command = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_disk_that_is_full_in_the_middle_of_an_upload(small_disk: Path) -> None:
    """Whole chunks stay, nothing half; with more space the upload goes on."""
    store = open_store(str(small_disk / "store"), create=True)
    with pytest.raises(StoreUnreachableError, match="is full"):
        write_bulk(store, BIG, None)
    assert {store.size(entry.key) for entry in store.list("")} <= {CHUNK_BYTES, 10}
    subprocess.run(["mount", "-o", "remount,size=40m", str(small_disk)], check=True)
    bulk = write_bulk(store, BIG, None)
    assert read_bulk(store, bulk, None, max_bytes=len(BIG)) == BIG


@pytest.mark.parametrize("cipher", [None, GroupCipher(KEY)], ids=["plain", "encrypted"])
def test_an_upload_that_broke_off_goes_on(cipher: GroupCipher | None) -> None:
    lossy = Lossy(memory_store())
    lossy.fail_at = 3
    with pytest.raises(StoreUnreachableError):
        write_bulk(lossy, BIG, cipher)
    lossy.fail_at = -1
    bulk = write_bulk(lossy, BIG, cipher)
    assert read_bulk(lossy, bulk, cipher, max_bytes=len(BIG)) == BIG
    stored = {entry.key for entry in lossy.store.list("blobs")}
    assert stored == {blob_key(chunk.digest, 0) for chunk in bulk.chunks}
    extra = OVERHEAD_BYTES * len(bulk.chunks) if cipher else 0
    assert bulk.stored_bytes == len(BIG) + extra


def test_a_damaged_copy_is_passed_by(store: ObjectStore) -> None:
    digest = write_bulk(memory_store(), b"payload", None).chunks[0].digest
    store.put_new(blob_key(digest, 0), b"payl")
    bulk = write_bulk(store, b"payload", None)
    assert bulk.chunks[0].copy == 1
    assert read_bulk(store, bulk, None, max_bytes=100) == b"payload"


def test_what_is_not_as_described_is_refused(store: ObjectStore) -> None:
    bulk = write_bulk(store, b"payload", None)
    with pytest.raises(PayloadError) as caught:
        read_bulk(store, bulk, None, max_bytes=6)
    assert caught.value.reason == "oversized"
    with pytest.raises(PayloadError) as caught:
        read_bulk(memory_store(), bulk, None, max_bytes=100)
    assert caught.value.reason == "missing"
    with pytest.raises(PayloadError) as caught:
        read_bulk(store, bulk, GroupCipher(KEY), max_bytes=100)
    assert caught.value.reason == "damaged"


def test_a_download_that_broke_off_goes_on(tmp_path: Path) -> None:
    store = memory_store()
    bulk = write_bulk(store, BIG, None)
    read_bulk(store, bulk, None, max_bytes=len(BIG), cache=tmp_path)
    (tmp_path / bulk.chunks[0].digest).write_bytes(b"torn")
    received = store.traffic.received_bytes
    assert read_bulk(store, bulk, None, max_bytes=len(BIG), cache=tmp_path) == BIG
    assert store.traffic.received_bytes - received == bulk.chunks[0].bytes


@given(st.binary(min_size=1, max_size=2000), st.integers(0, 2**16))
def test_a_sealed_piece_opens_with_its_key_alone(piece: bytes, position: int) -> None:
    cipher = GroupCipher(KEY)
    sealed = cipher.seal(piece)
    assert cipher.open(sealed) == piece
    assert cipher.seal(piece) == sealed
    changed = bytearray(sealed)
    changed[position % len(sealed)] ^= 1
    for key, data in ((KEY, bytes(changed)), (bytes(32), sealed), (KEY, sealed[:-1]), (KEY, b"")):
        with pytest.raises(PayloadError):
            GroupCipher(key).open(data)


def test_a_shaped_store_takes_at_least_what_its_link_gives() -> None:
    """At least: a busy host may be later, never earlier."""
    link = Link(bandwidth_bytes_per_s=1e6, latency_s=0.02, emulated=True, source="emulated")
    shaped = ShapedStore(memory_store(), link)
    began = time.monotonic()
    threads = [
        threading.Thread(target=shaped.put_new, args=(f"key{n}", bytes(50_000))) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began >= 0.2 + 2 * 0.02
    assert len(shaped.list("")) == 4
    assert shaped.size("key1") == 50_000
    assert shaped.get("key1", 10**6) == bytes(50_000)
