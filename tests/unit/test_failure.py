"""A failed run has one cause: the rank that failed, never one that only lost its peer."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from motley.errors import (
    ChipLostError,
    ChipOutOfMemoryError,
    DivergedError,
    MotleyError,
    StorageError,
    TrainingError,
)
from motley.plan.plan import Plan, Replica, Stage
from motley.train.failure import explain, write_failure

CHIPS = ("strong", "middle", "weak")
PLAN = Plan(
    recipe_digest="r",
    cluster_digest="c",
    replicas=tuple(
        Replica(
            stages=(
                Stage(
                    chips=(chip,), first_layer=0, last_layer=4, precision="fp32", memory_bytes=needs
                ),
            ),
            num_samples=1,
            micro_batch_size=1,
        )
        for chip, needs in zip(CHIPS, (5000, 1000, 0), strict=True)
    ),
)
PEER_LOST = [
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [::1]:1",
    "[pair.cc:538] Read error [127.0.0.1]:43210: Connection reset by peer",
    "writev [127.0.0.1]:1: Broken pipe",
    "Timed out waiting 600000ms for recv operation to complete",
    "[buffer.cc:72] Application timeout caused pair closure",
    "failed to recv, got 0 bytes. Connection was likely closed. Did the remote server shut down?",
    "NCCL error: remote process exited or there was a network error",
]
OUT_OF_MEMORY = [
    RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
    MemoryError(),
]


def explained(
    folder: Path, accounts: dict[int, BaseException], codes: dict[int, int], step: int = 9
) -> MotleyError:
    for rank, error in accounts.items():
        write_failure(folder, rank, CHIPS[rank], error)
    return explain(folder, PLAN, codes, step)


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("message", PEER_LOST)
def test_a_killed_chip_is_named_and_not_those_that_lost_it(
    tmp_path: Path, rank: int, message: str
) -> None:
    others = {each: RuntimeError(message) for each in range(3) if each != rank}
    codes = {rank: -signal.SIGKILL, **dict.fromkeys(others, 1)}
    error = explained(tmp_path, dict(others), codes)
    assert isinstance(error, ChipLostError)
    assert error.chip == CHIPS[rank]
    assert error.message == (
        f"chip '{CHIPS[rank]}' (rank {rank}) was lost after step 9: killed by SIGKILL."
    )
    assert "--resume RUN" in error.remedy


def test_a_save_that_failed_because_a_chip_died_is_not_the_cause(tmp_path: Path) -> None:
    save = StorageError(
        "the checkpoint of step 4 could not be saved: Connection closed by peer",
        remedy="Free space.",
    )
    error = explained(tmp_path, {0: save}, {0: 1, 2: -signal.SIGKILL})
    assert isinstance(error, ChipLostError)
    assert error.chip == "weak"


def test_those_that_the_launcher_stopped_are_not_the_cause(tmp_path: Path) -> None:
    codes = {0: -signal.SIGTERM, 1: -signal.SIGSEGV, 2: -signal.SIGTERM}
    error = explained(tmp_path, {}, codes)
    assert isinstance(error, ChipLostError)
    assert (error.chip, "SIGSEGV" in error.message) == ("middle", True)


def test_a_signal_without_a_name(tmp_path: Path) -> None:
    assert "killed by signal 99" in explained(tmp_path, {}, {1: -99}).message


def test_a_chip_out_of_memory_is_the_cause(tmp_path: Path) -> None:
    own = ChipOutOfMemoryError("chip 'middle' is out of memory.", chip="middle", remedy="Split.")
    error = explained(tmp_path, {0: RuntimeError(PEER_LOST[0]), 1: own}, {0: 1, 1: 1})
    assert isinstance(error, ChipOutOfMemoryError)
    assert (error.chip, error.message) == ("middle", own.message)
    assert error.remedy == (
        "Lower memory_bytes of 'middle' in the cluster file to 900 (this plan expects 1000), which "
        "makes a new plan: motley train --resume RUN --cluster FILE"
    )


@pytest.mark.parametrize("cause", OUT_OF_MEMORY, ids=["cuda", "cpu", "python"])
def test_a_librarys_out_of_memory_names_the_chip(tmp_path: Path, cause: Exception) -> None:
    error = explained(tmp_path, {2: cause, 0: RuntimeError(PEER_LOST[1])}, {0: 1, 2: 1})
    assert isinstance(error, ChipOutOfMemoryError)
    assert error.chip == "weak"
    assert "chip 'weak'" in error.message
    assert "Lower memory_bytes of 'weak' in the cluster file, which makes" in error.remedy
    assert "rank-2.json" in error.remedy


def test_our_own_error_keeps_its_class_message_and_exit_code(tmp_path: Path) -> None:
    own = DivergedError("step 3: the loss is nan.", remedy="Lower the learning rate.")
    error = explained(tmp_path, {0: own, 1: own, 2: own}, {0: 1, 1: 1, 2: 1})
    assert isinstance(error, DivergedError)
    assert (error.message, error.remedy) == (own.message, own.remedy)
    assert error.exit_code == DivergedError.exit_code


def test_a_strange_error_is_named_with_its_chip_and_its_trace(tmp_path: Path) -> None:
    try:
        raise KeyError("blocks.0")
    except KeyError as caught:
        cause = caught
    error = explained(tmp_path, {0: RuntimeError(PEER_LOST[2]), 1: cause}, {0: 1, 1: 1})
    assert error.message == "chip 'middle' (rank 1) failed: KeyError: 'blocks.0'"
    assert error.exit_code == TrainingError.exit_code
    assert "rank-1.json" in error.remedy
    account = json.loads((tmp_path / "rank-1.json").read_text())
    assert "test_failure.py" in account["trace"]


def test_a_rank_that_ended_without_a_word_is_the_cause(tmp_path: Path) -> None:
    error = explained(tmp_path, {0: RuntimeError(PEER_LOST[0])}, {0: 1, 2: 3})
    assert isinstance(error, ChipLostError)
    assert error.chip == "weak"
    assert "ended with code 3" in error.message


@pytest.mark.parametrize("text", ["", '{"rank": 0, "chi', "not json"])
def test_an_account_that_was_cut_off_is_passed_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "rank-0.json").write_text(text)
    own = DivergedError("step 3: the loss is nan.")
    assert explained(tmp_path, {1: own}, {0: 1, 1: 1}).message == own.message


def test_nothing_is_known(tmp_path: Path) -> None:
    error = explain(tmp_path / "nothing", PLAN, {}, 0)
    assert isinstance(error, ChipLostError)
