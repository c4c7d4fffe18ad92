"""The training loop of one rank: steps, validations, checkpoints, and the end."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist
from torch import Tensor

from motley.data.batches import SampleSource
from motley.errors import CheckpointError, DivergedError, StorageError
from motley.train.checkpoint import CheckpointWriter, Progress
from motley.train.course import Course
from motley.train.engine import Engine, StepResult
from motley.train.folder import RunFolder
from motley.train.journal import Journal
from motley.train.newest import Expected, newest_whole
from motley.train.validation import validate


@dataclass
class Training:
    """What one rank trains with. `journal` is rank 0's alone."""

    engine: Engine
    course: Course
    folder: RunFolder
    writer: CheckpointWriter
    journal: Journal | None
    samples: SampleSource
    held_out: SampleSource
    token_bytes: Tensor
    expected: Expected
    """Of a checkpoint of this run."""
    _saved_step: int = -1
    _save_began: float = 0.0

    def run(self, first_step: int) -> None:
        """From `first_step` updates done to the end of the course, or to a requested stop."""
        recipe = self.engine.recipe
        self.engine.watch.bears_rises = self.course.bears_rises
        first_step = self.course.begin(first_step)
        if self.journal:
            self.journal.begin(self.engine, first_step, self.course.num_rounds)
        self._saved_step = first_step
        began = time.monotonic()
        self.engine.align()
        step, stopped = first_step, self.course.is_stopped
        while not stopped and not self.course.is_over(step):
            rate = self.course.learning_rate(step)
            stop = self._stop_requested()
            result = self._train_step(step, rate, stop=stop)
            step, stopped = step + 1, result.stop
            self._record(step, result)
            self.course.after_step(step, result)
            stopped = stopped or self.course.is_stopped
            if self.course.averages(step):
                self.engine.live.average.add()
            is_end = stopped or self.course.is_over(step)
            if step % recipe.validation.every_steps == 0 or is_end:
                self._validate(step)
            self._finish_save(wait=is_end or step % recipe.checkpoint.every_steps == 0)
            if step % recipe.checkpoint.every_steps == 0 or is_end:
                self._begin_save(step, is_final=is_end)
        self._finish_save(wait=True, is_final=True)
        if self.journal:
            reason = "done" if self.course.is_over(step) else "stopped"
            self.journal.end(step, reason, time.monotonic() - began)

    def _train_step(self, step: int, rate: float, *, stop: bool) -> StepResult:
        """`DivergedError` with the checkpoint to go back to if the training is lost."""
        try:
            return self.engine.train_step(step, self.samples, rate=rate, stop=stop)
        except DivergedError as lost:
            raise DivergedError(
                lost.message, remedy=self.course.way_out(self.folder, self._newest())
            ) from None

    def _newest(self) -> Path | None:
        """The checkpoint that a resume would go on from."""
        with contextlib.suppress(CheckpointError):
            found = newest_whole(self.folder.checkpoints, lambda text: None, self.expected)
            return found[0] if found else None
        return None

    def _stop_requested(self) -> bool:
        return self.journal is not None and self.folder.stop_request.exists()

    def _record(self, step: int, result: StepResult) -> None:
        spans = None
        if Journal.wants_timeline(step):
            spans = Journal.gather_spans(self.engine, result)
        if self.journal:
            self.journal.step(self.engine, step, result, spans)

    def _validate(self, step: int) -> None:
        """At the end of the course with the mean of the last weights, if there is one."""
        began = time.monotonic()
        is_averaged = self.course.is_over(step) and self.engine.live.average.count > 0
        with self.engine.averaged() if is_averaged else contextlib.nullcontext():
            loss, bits = validate(
                self.engine,
                self.held_out,
                self.token_bytes,
                self.engine.recipe.validation.max_samples,
            )
        if self.journal:
            self.journal.validation(step, loss, bits, time.monotonic() - began)

    def _begin_save(self, step: int, *, is_final: bool) -> None:
        """A save that cannot begin is reported; only the final one is an error."""
        if self.writer.is_running or step == self._saved_step:
            return
        if self.engine.watch.is_suspect and self._has_older():
            if self.journal:
                self.journal.message(
                    f"Step {step}: the loss is far above what it was; no checkpoint is saved, so "
                    "that older ones stay."
                )
            return
        self._save_began = time.monotonic()
        try:
            self.writer.begin(
                self.engine.live.own(self.engine.answered_names), self._progress(step)
            )
        except StorageError as failure:
            self._not_saved(step, failure, is_final=is_final)
            return
        self._saved_step = step
        self.engine.align()

    def _progress(self, step: int) -> Progress:
        engine = self.engine
        return Progress(
            step=step,
            recipe_digest=engine.recipe.digest,
            tokenizer_digest=self.expected.tokenizer_digest,
            loss_scale=engine.scale.value,
            num_averaged=engine.live.average.count,
            first_loss=engine.watch.first_loss,
        )

    def _not_saved(self, step: int, failure: StorageError, *, is_final: bool) -> None:
        if self.journal:
            self.journal.checkpoint_failed(step, failure.message)
        if is_final:
            raise failure

    def _has_older(self) -> bool:
        """Whether there is a whole checkpoint, as rank 0 sees it. All ranks call it."""
        found = [self.journal is not None and self._newest() is not None]
        dist.broadcast_object_list(found, src=0, group=self.engine.control)
        return found[0]

    def _finish_save(self, *, wait: bool, is_final: bool = False) -> None:
        """Ends the save in progress; for a failed one see `_begin_save`."""
        if not self.writer.is_running or not (wait or self.writer.is_done):
            return
        try:
            path = self.writer.finish()
        except StorageError as failure:
            self._not_saved(self._saved_step, failure, is_final=is_final)
            return
        if self.journal and path is not None:
            self.journal.checkpoint(self._saved_step, path, time.monotonic() - self._save_began)
