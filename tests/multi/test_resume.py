"""Any plan resumes any checkpoint; a broken one is passed over; a full disk loses nothing."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import jobs
from motley.cluster import Cluster
from motley.data import PreparedData
from motley.plan.plan import Plan
from motley.recipe import Recipe
from motley.train.checkpoint import (
    checkpoint_path,
    load_state,
    read_progress,
    why_not_saved,
)
from motley.train.folder import RunFolder
from motley.train.launch import start
from motley.train.newest import newest_whole
from motley.train.trained import load_model


def with_steps(recipe: Recipe, steps: int) -> Recipe:
    """Cut short, with the learning rates of the whole schedule."""
    constant = dataclasses.replace(recipe.schedule, decay="constant", steps=steps)
    return dataclasses.replace(recipe, schedule=constant)


def three_chips(recipe: Recipe) -> tuple[Cluster, Plan]:
    cluster = jobs.cluster("fp32", "fp32", "fp32")
    return cluster, jobs.plan_of(
        recipe, cluster, (((0, 0, 3), (1, 3, 6)), 2, 10), (((2, 0, 6),), 3, 6)
    )


def two_chips(recipe: Recipe) -> tuple[Cluster, Plan]:
    cluster = jobs.cluster("fp32", "fp32")
    return cluster, jobs.plan_of(recipe, cluster, (((1, 0, 6),), 4, 4), (((0, 0, 6),), 4, 12))


def go_on(folder: RunFolder, recipe: Recipe, cluster: Cluster, plan: Plan) -> None:
    folder.write(recipe, cluster, plan, folder.data_folder())
    start(folder).finish()


@pytest.fixture(scope="module")
def unbroken(
    small: tuple[Recipe, PreparedData], tmp_path_factory: pytest.TempPathFactory
) -> dict[int, float]:
    recipe, data = small
    recipe = with_steps(recipe, 24)
    cluster, plan = three_chips(recipe)
    path = tmp_path_factory.mktemp("unbroken") / "run"
    return jobs.losses(jobs.train(path, recipe, cluster, plan, data))


def test_resume_under_another_plan_continues_the_same_curve(
    small: tuple[Recipe, PreparedData], unbroken: dict[int, float], tmp_path: Path
) -> None:
    recipe, data = small
    short, whole = with_steps(recipe, 12), with_steps(recipe, 24)
    folder = jobs.train(tmp_path / "run", short, *three_chips(short), data)
    go_on(folder, whole, *two_chips(whole))
    losses = jobs.losses(folder)
    assert list(losses) == list(range(1, 25))
    assert losses == pytest.approx(unbroken, rel=1e-4)
    assert jobs.events(folder, "run_started")[1]["resumed_from"] == 12


def test_resume_under_the_same_plan_is_exact(
    small: tuple[Recipe, PreparedData], unbroken: dict[int, float], tmp_path: Path
) -> None:
    recipe, data = small
    short, whole = with_steps(recipe, 12), with_steps(recipe, 24)
    folder = jobs.train(tmp_path / "run", short, *three_chips(short), data)
    go_on(folder, whole, *three_chips(whole))
    assert jobs.losses(folder) == unbroken


def test_a_mean_is_of_the_last_steps_of_the_schedule_at_hand(
    small: tuple[Recipe, PreparedData], tmp_path: Path
) -> None:
    """That over the last 3 of 6 updates has no place in that over the last 3 of 12, nor this one
    where none is wanted any more."""
    recipe, data = small
    none = with_steps(recipe, 14)
    short, whole = (
        dataclasses.replace(
            none,
            schedule=dataclasses.replace(none.schedule, steps=steps, tail_average_share=3 / steps),
        )
        for steps in (6, 12)
    )
    folder = jobs.train(tmp_path / "run", short, *two_chips(short), data)
    assert read_progress(checkpoint_path(folder.checkpoints, 6)).num_averaged == 3
    go_on(folder, whole, *two_chips(whole))
    newest = checkpoint_path(folder.checkpoints, 12)
    assert read_progress(newest).num_averaged == 3

    averaged = load_model(folder, lambda text: None)[0].state()
    unaveraged = with_steps(recipe, 12)
    folder.write(unaveraged, *two_chips(unaveraged), data.folder)
    last = load_model(folder, lambda text: None)[0].state()
    saved = {f"parameter/{name}": torch.empty_like(each) for name, each in last.items()}
    load_state(newest, saved, distributed=False)
    assert all(saved[f"parameter/{name}"].equal(each) for name, each in last.items())
    assert not all(averaged[name].equal(each) for name, each in last.items())

    go_on(folder, none, *two_chips(none))
    assert read_progress(checkpoint_path(folder.checkpoints, 14)).num_averaged == 0


def test_newest_are_kept_and_broken_ones_are_passed_over(
    small: tuple[Recipe, PreparedData], tmp_path: Path
) -> None:
    recipe, data = small
    checkpoint = dataclasses.replace(recipe.checkpoint, every_steps=3, keep=2)
    recipe = dataclasses.replace(with_steps(recipe, 9), checkpoint=checkpoint)
    folder = jobs.train(tmp_path / "run", recipe, *two_chips(recipe), data)
    kept = sorted(path.name for path in folder.checkpoints.iterdir())
    assert kept == ["step-00000006", "step-00000009"]
    newest = folder.checkpoints / "step-00000009"
    assert read_progress(newest).step == 9
    data_file = max(newest.glob("*.distcp"), key=lambda path: path.stat().st_size)
    os.truncate(data_file, data_file.stat().st_size // 2)
    said: list[str] = []
    found = newest_whole(folder.checkpoints, said.append)
    assert found is not None
    assert found[1].step == 6
    assert "truncated" in said[0]
    longer = with_steps(recipe, 10)
    go_on(folder, longer, *two_chips(longer))
    assert jobs.events(folder, "run_started")[1]["resumed_from"] == 6
    assert any("truncated" in event["text"] for event in jobs.events(folder, "message"))


def test_a_foreign_checkpoint_is_passed_over(tmp_path: Path) -> None:
    foreign = tmp_path / "step-00000099"
    foreign.mkdir()
    (foreign / "model.safetensors").write_bytes(b"not ours")
    (tmp_path / "step-00000100").mkdir()
    (tmp_path / "step-00000100" / "whole.json").write_text(json.dumps({"files": []}))
    said: list[str] = []
    assert newest_whole(tmp_path, said.append) is None
    assert len(said) == 2


class FullDisk(io.RawIOBase):
    """Takes so many bytes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, data: Any, /) -> int:
        if len(data) > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= len(data)
        return len(data)


def test_pytorchs_words_for_a_full_disk_are_explained() -> None:
    with pytest.raises((RuntimeError, OSError)) as caught:
        torch.save({"a": torch.zeros(100_000)}, FullDisk(10_000))
    assert "as when it is full" in why_not_saved(caught.value), caught.value


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from pathlib import Path
from motley.train.folder import RunFolder
from motley.train.launch import start
start(RunFolder(Path(sys.argv[1]))).finish()
"""


def test_a_full_disk_keeps_the_older_checkpoint(
    small: tuple[Recipe, PreparedData], tmp_path: Path
) -> None:
    """Files may not grow beyond a limit, which the checkpoint needs: as on a full disk."""
    if not hasattr(resource, "RLIMIT_FSIZE"):
        pytest.skip("this system has no limit on the size of files")
    recipe, data = small
    first, second = with_steps(recipe, 2), with_steps(recipe, 4)
    folder = jobs.train(tmp_path / "run", first, *two_chips(first), data)
    cluster, plan = two_chips(second)
    folder.write(second, cluster, plan, data.folder)
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED, str(folder.path), str(100_000)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode != 0
    assert "the checkpoint of step 4 could not be saved: [Errno 27]" in ended.stderr
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step-00000002"]
    assert read_progress(folder.checkpoints / "step-00000002").step == 2
