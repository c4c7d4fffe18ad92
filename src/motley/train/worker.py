"""One rank of a run, as torchrun starts it: `torchrun ... -m motley.train.worker RUN`.

All that it needs is in the run folder; all that it has to say goes there too.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from motley import kernels
from motley.chips.chip import Chip
from motley.chips.host import keep_freed_memory
from motley.data import PreparedData, evaluation_samples, unigram_entropy
from motley.train.assemble import PEER_TIMEOUT, Groups, build_engine
from motley.train.checkpoint import CheckpointWriter, Progress, load_state
from motley.train.course import Course
from motley.train.engine import Engine
from motley.train.failure import write_failure
from motley.train.folder import RunFolder, open_run_folder
from motley.train.growth import load_grown
from motley.train.journal import Journal
from motley.train.loop import Training
from motley.train.newest import Expected, expected_of, newest_whole
from motley.train.orphan import follow_parent
from motley.train.samples import training_samples


@dataclass(frozen=True)
class Rank:
    """What a rank has when its training is about to begin."""

    engine: Engine
    folder: RunFolder
    data: PreparedData
    journal: Journal | None
    """Of rank 0 alone."""


CourseOf = Callable[[Rank], Course]


def recipe_course(rank: Rank) -> Course:
    """The course of a run of its own."""
    return Course(rank.engine.recipe)


def main(argv: list[str], course_of: CourseOf = recipe_course) -> int:
    """Runs one rank of the run that `argv` names; the exit code says whether it ended well."""
    (path,) = argv
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher asks for a stop by a file
    follow_parent()
    folder = open_run_folder(Path(path))
    rank = int(os.environ["RANK"])
    chip = folder.plan_chip(rank)
    try:
        run_rank(folder, rank, chip, course_of)
    except BaseException as error:
        write_failure(folder.failures, rank, chip.name, error)
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)  # skips the teardown of libraries, which may hang on lost peers


def run_rank(folder: RunFolder, rank: int, chip: Chip, course_of: CourseOf) -> None:
    """Joins the others, restores the newest whole checkpoint, trains to the end or a stop."""
    _set_threads(chip)
    keep_freed_memory()
    kernels_message = kernels.enable() if not chip.emulated and chip.device == "cpu" else ""
    dist.init_process_group("gloo", timeout=PEER_TIMEOUT)
    recipe, cluster, plan = folder.recipe(), folder.cluster(), folder.plan()
    data = PreparedData.load(folder.data_folder())
    samples = training_samples(folder.selection, recipe, data)
    engine, groups = build_engine(recipe, cluster, plan, rank)
    journal = Journal.open(folder, plan) if rank == 0 else None
    if journal:
        entropy = unigram_entropy(data.held_out)
        journal.message(f"Token frequencies alone would give a validation loss of {entropy:.2f}.")
        if kernels_message:
            journal.message(kernels_message)
        if samples.kept is not None:
            journal.message(f"Training on {samples.num_samples} selected samples of the text.")
    expected = expected_of(engine, data.index.tokenizer_digest, groups.control)
    first_step = _restore(engine, groups, folder, expected, journal)
    length = recipe.batch.sequence_length
    training = Training(
        engine=engine,
        course=course_of(Rank(engine, folder, data, journal)),
        folder=folder,
        writer=CheckpointWriter(
            folder.checkpoints, recipe.checkpoint.keep, groups.checkpoint, is_leader=rank == 0
        ),
        journal=journal,
        samples=samples,
        held_out=evaluation_samples(data.held_out, length, recipe.validation.max_samples),
        token_bytes=torch.from_numpy(data.token_bytes),
        expected=expected,
    )
    training.run(first_step)
    dist.barrier(group=groups.control)


def run_alone(folder: RunFolder, course_of: CourseOf = recipe_course) -> None:
    """Trains a run of one rank in this process, without a launcher; others may follow."""
    os.environ |= {
        "RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0",
    }  # fmt: skip
    run_rank(folder, 0, folder.plan_chip(0), course_of)
    dist.destroy_process_group()


def _set_threads(chip: Chip) -> None:
    """An emulated chip gets one host thread; a real CPU shares the cores with its node's ranks."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    others = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1
    is_cpu = chip.device == "cpu" and not chip.emulated
    torch.set_num_threads(max(1, (cores or 1) - others) if is_cpu else 1)


def _restore(
    engine: Engine,
    groups: Groups,
    folder: RunFolder,
    expected: Expected,
    journal: Journal | None,
) -> int:
    """Reads the run's newest whole checkpoint, chosen by rank 0; the number of updates done."""
    choice: list[tuple[Path, Progress] | None] = [None]
    if journal:
        choice = [newest_whole(folder.checkpoints, journal.message, expected)]
    dist.broadcast_object_list(choice, src=0, group=groups.control)
    if choice[0] is None:
        if engine.recipe.growth is not None:
            load_grown(engine.recipe, engine.parameters)
        return 0
    path, progress = choice[0]
    if journal and progress.recipe_digest != engine.recipe.digest:
        journal.message(
            f"{path.name} was saved under another recipe ({progress.recipe_digest}); this run "
            f"goes on with its own ({engine.recipe.digest})."
        )
    if progress.num_averaged and engine.recipe.schedule.averages(progress.step):
        engine.live.average.begin(progress.num_averaged)
    load_state(path, engine.live.held())
    engine.watch.first_loss = progress.first_loss
    engine.parameters.refresh()
    if engine.scale.is_dynamic:
        engine.scale.value = progress.loss_scale
    return progress.step


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
