"""A chip that dies, runs out of memory, or is stopped by its user: one cause, and nothing lost."""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import jobs
from motley.cluster import Cluster
from motley.data import PreparedData
from motley.errors import ChipLostError, ChipOutOfMemoryError, DivergedError
from motley.events import EventLog
from motley.recipe import Recipe
from motley.train.folder import RunFolder, resume_command
from motley.train.launch import Job, start
from motley.train.newest import newest_whole
from motley.train.prepare import resume_run

LONG = 100_000


def endless(recipe: Recipe) -> Recipe:
    """Would train for hours, with a checkpoint every few steps."""
    return dataclasses.replace(
        recipe,
        schedule=dataclasses.replace(recipe.schedule, steps=LONG),
        checkpoint=dataclasses.replace(recipe.checkpoint, every_steps=5),
    )


def three_replicas(path: Path, small: tuple[Recipe, PreparedData]) -> RunFolder:
    recipe, data = endless(small[0]), small[1]
    cluster = jobs.cluster("fp32", "fp32", "fp32")
    plan = jobs.plan_of(recipe, cluster, (((0, 0, 3), (1, 3, 6)), 4, 8), (((2, 0, 6),), 4, 8))
    return jobs.make_run(path, recipe, cluster, plan, data)


def worker_of(job: Job, rank: int) -> psutil.Process:
    for process in psutil.Process(job.process.pid).children(recursive=True):
        if process.environ().get("RANK") == str(rank):
            return process
    raise AssertionError(f"no process of rank {rank}")


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_killed_chip_is_named_and_the_run_goes_on_without_it(
    rank: int, small: tuple[Recipe, PreparedData], tmp_path: Path
) -> None:
    folder = three_replicas(tmp_path / "run", small)
    job = start(folder)
    jobs.wait_for(job, "checkpoint")
    worker_of(job, rank).kill()
    assert job.wait(30.0), "the run did not stop"
    failure = job.failure()
    assert isinstance(failure, ChipLostError)
    assert failure.chip == f"chip-{rank}"
    assert "SIGKILL" in failure.message
    assert "--resume" in failure.remedy
    found = newest_whole(folder.checkpoints, lambda text: None)
    assert found is not None

    said: list[str] = []
    folder, _ = resume_run(folder.path, None, None, said.append)
    assert {chip.name for chip in folder.cluster().chips} == {
        name for name in ("chip-0", "chip-1", "chip-2") if name != f"chip-{rank}"
    }
    assert any(f"chip-{rank}" in text for text in said)
    again = start(folder)
    jobs.wait_for(again, "step", 2)
    again.request_stop()
    again.finish()
    started = jobs.events(folder, "run_started")
    assert started[1]["resumed_from"] == found[1].step
    left = {chip.name for chip in folder.cluster().chips}
    assert {chip["name"] for chip in started[1]["chips"]} <= left


def test_no_process_outlives_its_launcher(
    small: tuple[Recipe, PreparedData], tmp_path: Path
) -> None:
    folder = three_replicas(tmp_path / "run", small)
    job = start(folder)
    jobs.wait_for(job, "step", 2)
    workers = [worker_of(job, rank) for rank in range(3)]
    job.process.kill()
    job.process.wait()
    gone, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    assert len(gone) == 3


def test_out_of_memory_names_the_chip_and_the_way_to_go_on(
    small: tuple[Recipe, PreparedData], tmp_path: Path
) -> None:
    recipe, data = small
    recipe = dataclasses.replace(
        recipe, schedule=dataclasses.replace(recipe.schedule, steps=2, warmup_steps=1)
    )
    cluster = jobs.cluster("fp32", "fp32")
    plan = jobs.plan_of(recipe, cluster, (((0, 0, 6),), 4, 8), (((1, 0, 6),), 4, 8))
    small_chip = dataclasses.replace(cluster.chips[1], memory_bytes=1_500_000)
    cluster = dataclasses.replace(cluster, chips=(cluster.chips[0], small_chip))
    folder = jobs.make_run(tmp_path / "run", recipe, cluster, plan, data)
    with pytest.raises(ChipOutOfMemoryError, match="chip-1") as raised:
        start(folder).finish()
    assert raised.value.chip == "chip-1"
    assert raised.value.remedy.endswith("motley train --resume RUN --cluster FILE")
    advised = re.search(r"Lower memory_bytes of 'chip-1' .* to (\d+) ", raised.value.remedy)
    assert advised is not None
    less = dataclasses.replace(small_chip, memory_bytes=int(advised[1]))
    lowered = dataclasses.replace(cluster, chips=(cluster.chips[0], less))
    folder, anew = resume_run(folder.path, lowered, None, lambda text: None)
    assert anew.replicas != plan.replicas
    start(folder).finish()
    assert list(jobs.losses(folder)) == [1, 2]


def test_a_chip_that_a_cluster_brings_back_stays(
    small: tuple[Recipe, PreparedData], tmp_path: Path
) -> None:
    folder = three_replicas(tmp_path / "run", small)
    whole = folder.cluster()

    def lose(chip: str) -> None:
        with EventLog.open(folder.events) as log:
            log.write("chip_lost", chip=chip, reason="killed", step=0)

    def chips_after(cluster: Cluster | None) -> set[str]:
        resume_run(folder.path, cluster, None, lambda text: None)
        return {chip.name for chip in folder.cluster().chips}

    lose("chip-1")
    assert chips_after(None) == {"chip-0", "chip-2"}
    assert chips_after(whole.without({"chip-0"})) == {"chip-1", "chip-2"}
    assert jobs.events(folder, "message")[-1]["chips_back"] == ["chip-1"]
    assert chips_after(None) == {"chip-1", "chip-2"}
    lose("chip-2")
    assert chips_after(whole) == {"chip-0", "chip-1", "chip-2"}
    assert chips_after(None) == {"chip-0", "chip-1", "chip-2"}
    lose("chip-1")
    assert chips_after(None) == {"chip-0", "chip-2"}


def test_a_loss_that_is_not_finite_stops_the_run(
    small: tuple[Recipe, PreparedData], tmp_path: Path
) -> None:
    recipe, data = small
    wild = dataclasses.replace(
        recipe.optimizer, learning_rate=10.0, epsilon=1e-20, gradient_clip=1e9, weight_decay=1e4
    )
    recipe = dataclasses.replace(recipe, optimizer=wild)
    cluster = jobs.cluster("fp32")
    plan = jobs.plan_of(recipe, cluster, (((0, 0, 6),), 16, 16))
    job = start(jobs.make_run(tmp_path / "run", recipe, cluster, plan, data))
    with pytest.raises(DivergedError, match="the loss is") as raised:
        job.finish()
    assert "optimizer.learning_rate = 10 " in raised.value.message
    assert "Lower that learning rate" in raised.value.remedy
    assert "begin a new run; no checkpoint was saved yet" in raised.value.remedy


def test_a_lost_training_goes_on_from_its_checkpoint_by_its_own_recipe(
    small: tuple[Recipe, PreparedData], tmp_path: Path
) -> None:
    """Where it is lost there is a checkpoint, of weights that were suspect: the first one is saved
    even so, and none takes its place."""
    recipe, data = small
    wild = dataclasses.replace(
        recipe,
        optimizer=dataclasses.replace(recipe.optimizer, learning_rate=3.0),
        schedule=dataclasses.replace(recipe.schedule, warmup_steps=0, decay="constant"),
        checkpoint=dataclasses.replace(recipe.checkpoint, every_steps=10),
    )
    cluster = jobs.cluster("fp32", "fp32")
    plan = jobs.plan_of(wild, cluster, (((0, 0, 3), (1, 3, 6)), 16, 16))
    folder = jobs.make_run(tmp_path / "run", wild, cluster, plan, data)
    with pytest.raises(DivergedError, match="for 30 steps") as raised:
        start(folder).finish()
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step-00000010"]
    assert f"in {folder.path / 'recipe.json'}, then go on" in raised.value.remedy
    assert f"from step-00000010: {resume_command(folder.path)}" in raised.value.remedy
    said = [event["text"] for event in jobs.events(folder, "message")]
    assert sum("no checkpoint is saved" in text for text in said) == 2


def write_toml(path: Path, table: dict[str, object]) -> Path:
    """Flat and one-level tables, which is all that recipes and clusters need."""
    lines: list[str] = []

    def put(key: str, value: object) -> None:
        if isinstance(value, dict):
            inner = ", ".join(f"{name} = {_value(item)}" for name, item in value.items())
            lines.append(f"{key} = {{ {inner} }}")
        else:
            lines.append(f"{key} = {_value(value)}")

    for key, value in table.items():
        if not isinstance(value, list) or not value or not isinstance(value[0], dict):
            put(key, value)
    for key, value in table.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            for entry in value:
                lines.append(f"[[{key}]]")
                for name, item in entry.items():
                    put(name, item)
    path.write_text("\n".join(lines) + "\n")
    return path


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return repr(value)


def start_cli(
    small: tuple[Recipe, PreparedData], base: Path, **options: Any
) -> tuple[subprocess.Popen[str], Path]:
    recipe = write_toml(base / "recipe.toml", endless(small[0]).to_dict())
    cluster = write_toml(base / "cluster.toml", jobs.cluster("fp32", "fp32").to_dict())
    run = base / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "motley.cli.main", "train", str(recipe),
         "--cluster", str(cluster), "--run", str(run)],
        env={**os.environ, "XDG_CACHE_HOME": str(base / "cache")},
        text=True, start_new_session=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )  # fmt: skip
    return process, run


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Polls; fails if the process ends first."""
    while not condition():
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        assert condition(), process.communicate()


def test_ctrl_c_saves_and_exits_cleanly(small: tuple[Recipe, PreparedData], tmp_path: Path) -> None:
    process, run = start_cli(small, tmp_path)
    events = run / "events.jsonl"
    until(lambda: events.is_file() and '"step"' in events.read_text(), process)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    folder = RunFolder(run)
    (end,) = jobs.events(folder, "run_finished")
    assert end["reason"] == "stopped"
    found = newest_whole(folder.checkpoints, pytest.fail)
    assert found is not None
    assert found[1].step == end["step"] == max(jobs.losses(folder))


def test_a_closed_terminal_saves_too(small: tuple[Recipe, PreparedData], tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process, run = start_cli(
        small, tmp_path, stdin=theirs, stdout=theirs, stderr=theirs,
        preexec_fn=functools.partial(fcntl.ioctl, 0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    with open(ours, "rb", buffering=0) as terminal:
        os.set_blocking(ours, False)

        def has_trained() -> bool:
            terminal.read(65536)
            events = run / "events.jsonl"
            return events.is_file() and '"step"' in events.read_text()

        until(has_trained, process)
    process.wait(120)  # the terminal is closed: the system sends SIGHUP
    folder = RunFolder(run)
    (end,) = jobs.events(folder, "run_finished")
    assert end["reason"] == "stopped"
    found = newest_whole(folder.checkpoints, pytest.fail)
    assert found is not None
    assert found[1].step == end["step"]


def test_ctrl_c_before_the_first_step_leaves_no_process(
    small: tuple[Recipe, PreparedData], tmp_path: Path
) -> None:
    process, run = start_cli(small, tmp_path)
    until((run / "plan.json").is_file, process)
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert "Traceback" not in errors
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
