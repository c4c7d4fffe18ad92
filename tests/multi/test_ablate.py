"""`motley ablate` as a user meets it: stopped in the middle, run again, and nothing done twice."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from motley.chips.chip import Chip
from motley.chips.cluster_text import cluster_toml
from motley.errors import MotleyError
from motley.events import read_events

RECIPE = """
name = "tiny"
seed = 5
[model]
layers = 1
width = 16
heads = 2
context = 32
[data]
corpus = ["corpus.txt"]
vocab_size = 300
[batch]
sequence_length = 32
global_batch = 2
[schedule]
steps = 12
warmup_steps = 2
[validation]
every_steps = 6
max_samples = 8
"""
SLOW = Chip(
    name="slow", kind="test", emulated=True, precision="fp32", flops_per_s={"fp32": 2e7},
    memory_bytes=10**9, memory_bandwidth_bytes_per_s=1e12, source="emulated",
)  # fmt: skip
"""A step takes some tenths of a second, without work for the host, so there is time to stop."""


def command(folder: Path) -> list[str]:
    return [
        sys.executable, "-m", "motley.cli.main", "ablate", "tiny.toml", "--cluster", "slow.toml",
        "--set", "model.norm=rmsnorm", "--seeds", "1", "--out", "out", "--json",
    ]  # fmt: skip


def start(folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    return subprocess.Popen(
        command(folder), cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def steps(run: Path) -> list[int]:
    try:
        return [event["step"] for event in read_events(run) if event["event"] == "step"]
    except MotleyError:
        return []


def verdicts(printed: dict[str, Any]) -> dict[str, str]:
    return {row["variant"]: row["verdict"] for row in printed["variants"]}


def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(tmp_path: Path) -> None:
    words = ["one", "fish", "two", "fish", "red", "fish", "blue", "fish"]
    text = "\n\n".join(" ".join(words[n % 7 :] + words[: n % 5]) for n in range(900))
    (tmp_path / "corpus.txt").write_text(text)
    (tmp_path / "tiny.toml").write_text(RECIPE)
    (tmp_path / "slow.toml").write_text(cluster_toml("slow", (SLOW,), (), {}))
    base = tmp_path / "out" / "base" / "seed-5" / "events.jsonl"
    variant = tmp_path / "out" / "model.norm-rmsnorm" / "seed-5" / "events.jsonl"

    first = start(tmp_path)
    while not steps(variant):
        with contextlib.suppress(subprocess.TimeoutExpired):
            first.wait(0.1)
            raise AssertionError(first.communicate())
    first.send_signal(signal.SIGINT)
    printed, said = first.communicate(timeout=120)
    assert first.returncode == 0, said
    assert json.loads(printed)["stopped"] is True
    assert verdicts(json.loads(printed)) == {"base": "base"}
    assert "The same command goes on" in said
    before, done = base.read_bytes(), steps(variant)
    assert 0 < len(done) < 12

    second = start(tmp_path)
    printed, said = second.communicate(timeout=120)
    assert second.returncode == 0, said
    assert json.loads(printed)["stopped"] is False
    assert verdicts(json.loads(printed)) == {"base": "base", "model.norm=rmsnorm": "no claim"}
    assert base.read_bytes() == before
    assert steps(variant) == list(range(1, 13))
    assert (tmp_path / "out" / "ablation.html").is_file()
