"""Stores over the network that refuse, do not answer or answer late: real sockets on loopback."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from motley.errors import StoreError, StoreUnreachableError
from motley.federation.storage.store import ATTEMPTS, ObjectStore, open_store

KEYS = ("seals/00000403.0.json", "blobs/4f/4f1403aa404501.0", "rounds/00000501/updates/a.0.json")
"""In which there are digits that a server could answer with."""
CALLS: dict[str, Callable[[ObjectStore, str], object]] = {
    "put": lambda store, key: store.put_new(key, b"x"),
    "get": lambda store, key: store.get(key, 10),
    "size": lambda store, key: store.size(key),
    "list": lambda store, key: store.list(key),
}


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "wrong")
    monkeypatch.setenv("AWS_REGION", "us-east-1")


@pytest.fixture
def store_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ObjectStore]:
    def at(port: int, stall_s: float = 30.0) -> ObjectStore:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        return open_store("s3://bucket/prefix", stall_s=stall_s)

    return at


class Server(ThreadingHTTPServer):
    """Answers each request with one status, so late."""

    daemon_threads = True

    def __init__(self, status: int, body: bytes = b"") -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.status, self.body = status, body
        self.requests = 0
        self.late_s = 0.0


class Answer(BaseHTTPRequestHandler):
    server: Server

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.requests += 1
        threading.Event().wait(self.server.late_s)
        self.send_response(self.server.status)
        self.send_header("etag", "e")
        self.send_header("content-length", str(len(self.server.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.server.body)

    do_GET = do_HEAD = do_PUT = answer  # noqa: N815

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving(status: int, body: bytes = b"") -> Iterator[Server]:
    with Server(status, body) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("key", KEYS)
def test_a_refused_connection_may_pass_whatever_the_key(
    key: str, call: str, store_at: Callable[..., ObjectStore]
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # and does not listen
        store = store_at(listener.getsockname()[1])
        with pytest.raises(StoreUnreachableError, match="does not answer"):
            CALLS[call](store, key)


@pytest.mark.parametrize("call", CALLS)
def test_a_server_that_fails_is_asked_again(
    call: str, store_at: Callable[..., ObjectStore]
) -> None:
    """Whatever words stand in its answer."""
    with serving(503, b"<Error><Code>AccessDenied 403 NotImplemented</Code></Error>") as server:
        with pytest.raises(StoreUnreachableError, match="does not answer"):
            CALLS[call](store_at(server.server_port), KEYS[0])
        assert server.requests == ATTEMPTS


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("status", "words"), [(401, "refuses to"), (403, "refuses to"), (501, "does not support")]
)
def test_what_will_not_pass_is_an_error_at_once(
    status: int, words: str, call: str, store_at: Callable[..., ObjectStore]
) -> None:
    with serving(status) as server:
        with pytest.raises(StoreError, match=words) as caught:
            CALLS[call](store_at(server.server_port), "seals/00000001.0.json")
        assert not isinstance(caught.value, StoreUnreachableError)
        assert server.requests == 1


def test_a_bucket_that_is_not_there_cannot_be_listed(
    store_at: Callable[..., ObjectStore],
) -> None:
    with serving(404) as server, pytest.raises(StoreError, match="is not there"):
        store_at(server.server_port).list("seals")


@pytest.mark.parametrize("call", CALLS)
def test_a_server_that_stays_silent(call: str, store_at: Callable[..., ObjectStore]) -> None:
    """Connections are taken, and nothing ever comes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        store = store_at(listener.getsockname()[1], stall_s=0.25)
        with pytest.raises(StoreUnreachableError, match="does not answer"):
            CALLS[call](store, "seals/00000001.0.json")


def test_a_large_upload_may_last_as_long_as_its_bytes_take(
    store_at: Callable[..., ObjectStore],
) -> None:
    """An answer that comes too late for a small object is in time for a large one."""
    with serving(200) as server:
        server.late_s = 2.0
        store = store_at(server.server_port, stall_s=0.25)
        with pytest.raises(StoreUnreachableError):
            store.put_new("small", b"x")
        assert store.put_new("large", bytes(2**20))
