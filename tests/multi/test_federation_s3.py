"""A federation over a real S3 server on loopback, of separate processes that are killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from federation_cases import TOKENIZER, base_state, identity, recipe, terms
from motley.errors import StoreError
from motley.federation.charter.charter import MemberKey
from motley.federation.founding import found
from motley.federation.log.view import View
from motley.federation.storage.store import check_put_if_absent, open_store
from motley.federation.verify import verify

NAMES = ("a", "b", "c")
ROUNDS = 2
PARTY = Path(__file__).parent / "federation_party.py"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except urllib.error.HTTPError as answer:
        answer.close()
        return True
    except OSError:
        return False


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The address of an empty bucket on a server of this test's own."""
    port = free_port()
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-c", "import sys; from moto.server import main; main(sys.argv[1:])",
             "-H", "127.0.0.1", "-p", str(port)],
            stdout=log, stderr=log,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        while not answers(address):
            assert server.poll() is None, (tmp_path / "server.log").read_text()
        request = urllib.request.Request(f"{address}/bucket", method="PUT")
        with urllib.request.urlopen(request, timeout=60):
            pass
        for name, value in (
            ("AWS_ENDPOINT_URL", address),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_REGION", "us-east-1"),
        ):
            monkeypatch.setenv(name, value)
        yield "s3://bucket/federation"
    finally:
        server.kill()
        server.wait()


def start(url: str, name: str, at_call: int = 0) -> subprocess.Popen[str]:
    """A party; it kills itself with SIGKILL at that call of its store, if there is one."""
    paths = [str(Path(__file__).parents[1] / "unit"), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, str(PARTY), url, name, str(ROUNDS), str(at_call)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def run_parties(url: str, *, killed_at: int) -> None:
    """Three processes; one is killed and comes back. All end with the same state."""
    members = [MemberKey(name=name, public_key=identity(name).public_key) for name in NAMES]
    chosen = terms(quorum=2, reviews=2, grace_s=2.0, snapshot_every=2)
    store = open_store(url, create=True)
    found(store, base_state(chosen), recipe(), TOKENIZER, identity("founder"), members)
    others = [start(url, name) for name in NAMES[1:]]
    victim = start(url, "a", killed_at)
    output, _ = victim.communicate(timeout=100)
    assert victim.returncode == -signal.SIGKILL, output
    ends = [process.communicate(timeout=100)[0] for process in (*others, start(url, "a"))]
    assert all("Traceback" not in output for output in ends), ends
    result = verify(View(store))
    assert result.holds
    assert result.rounds >= ROUNDS
    assert not [refusal for refusal in result.refused if "probe" not in refusal.key]
    assert {output.split()[-1] for output in ends} == {result.state}


def test_processes_that_are_killed_over_s3(s3: str) -> None:
    run_parties(s3, killed_at=25)


def test_processes_that_are_killed_over_a_folder(tmp_path: Path) -> None:
    run_parties(str(tmp_path / "store"), killed_at=12)


def test_put_if_absent_over_s3_and_a_bucket_that_is_not_there(s3: str) -> None:
    check_put_if_absent(open_store(s3))
    with pytest.raises(StoreError, match="is not there") as caught:
        open_store("s3://buckett/federation").put_new("key", b"")
    assert "bucket" in caught.value.remedy
