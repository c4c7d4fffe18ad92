"""The course of a party's training: local steps, its work given out, the sealed rounds taken in.

All ranks of the party have one; rank 0's also has the correspondence with the other parties, which
runs in a thread of its own. Between two steps rank 0 looks what there is and tells the other ranks
in one small message, so all do the same. Training waits for the network only where the charter
says so (`delay_steps = 0`), and for the last round.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntFlag
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from motley.federation.charter.charter import Charter
from motley.federation.party.pace import Progress, num_rounds, steps_between
from motley.federation.party.trained import News, Trained
from motley.optim.schedule import learning_rate
from motley.train.course import Course
from motley.train.engine import StepResult
from motley.train.folder import RunFolder

LOOK_S = 1.0
"""Ranks that wait for rank 0 hear from it this often, so that no time-out takes it for dead."""


LEAST_SHARE = 0.25
"""Of the steps of a round: with fewer a party does not hurry, its steps count in the next one."""


class Model(Protocol):
    """The parameters of a training: `train.whole.WholeModel`, or a model in this process."""

    @property
    def world_size(self) -> int: ...

    def gather(self) -> dict[str, Tensor]: ...

    def change(self, values: Mapping[str, Tensor], *, keep: float) -> None: ...


class Correspondent(Protocol):
    """Rank 0's line to the others: `federation.correspondence.Correspondence`."""

    def start(self) -> None:
        """Begins to catch up; `news` has the whole state when that is done."""

    def submit(self, trained: Trained) -> bool:
        """Takes work to publish; False if its round was taken in meanwhile, so that the work must
        be for the next one."""

    def news(self, wait_s: float = 0.0) -> News | None:
        """What has come since the last call; raises what ended the correspondence."""

    def is_flushed(self) -> bool:
        """Whether all work that was submitted is published or has no use any more."""

    def takes_work(self, round_: int) -> bool:
        """Whether the round is open and this party has no update for it, from any process."""

    def is_urgent(self, round_: int) -> bool:
        """Whether the quorum of the round has been there for so long that work must be sent now."""

    def steps_for(self, round_: int, steps_per_s: float | None) -> int:
        """The local steps to take for a round."""

    def final_state(self) -> Mapping[str, Tensor]:
        """All parameters after the rounds so far."""

    def record_pause(self, round_: int, paused_s: float) -> None:
        """So long did the training for a round stand still."""


class Do(IntFlag):
    """What all ranks do now."""

    TAKE = 1
    GIVE = 2
    AGAIN = 4
    """There is more to do before the next step, or to wait for."""
    FINISH = 8
    STOP = 16
    """Somebody has asked for it, and what was given out is with the others."""


@dataclass
class _Sums:
    """Of the steps since the last work was given out."""

    began: float = field(default_factory=time.monotonic)
    steps: int = 0
    tokens: int = 0
    loss_sum: float = 0.0
    paused_s: float = 0.0

    def trained(self, round_: int, local: Mapping[str, Tensor]) -> Trained:
        loss = self.loss_sum / max(1, self.tokens)
        return Trained(
            round=round_,
            local=local,
            tokens=self.tokens,
            steps=self.steps,
            seconds=max(1e-9, time.monotonic() - self.began - self.paused_s),
            loss=loss if math.isfinite(loss) else None,
        )


class PartyCourse(Course):
    """Rounds instead of a schedule of the party's own; `correspondent` is rank 0's alone."""

    bears_rises = True

    def __init__(
        self,
        charter: Charter,
        model: Model,
        correspondent: Correspondent | None,
        *,
        group: dist.ProcessGroup | None = None,
        steps_done: int = 0,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        """`stop_requested` is asked by rank 0 while nothing is trained, too."""
        self._terms = charter.terms.round
        self._recipe_schedule = charter.recipe.schedule
        self._peak_rate = charter.recipe.optimizer.learning_rate
        self._num_rounds = num_rounds(self._terms, charter.recipe.schedule)
        self._model = model
        self._correspondent = correspondent
        self._group = group
        self._stop_requested = stop_requested
        self._steps_done = steps_done
        self._progress = Progress(0, 0, steps_between(self._terms))
        self._most_ahead = charter.terms.defences.max_weight_ratio * steps_between(self._terms)
        """Steps beyond which an update weighs no more."""
        self._given = False
        """Whether this round's work is given out."""
        self._news: News | None = None
        self._sums = _Sums()
        self._steps_per_s: float | None = None
        self._over = False
        self.is_stopped = False

    @property
    def num_rounds(self) -> int:
        return self._num_rounds

    def begin(self, step: int) -> int:
        """Catches up with the federation and takes its state; steps go on where they stopped."""
        if self._correspondent:
            self._correspondent.start()
        self._together(stop=False, may_train=False, may_wait=False)
        self._sums = _Sums()
        told = torch.tensor([max(step, self._steps_done)])
        self._broadcast(told)
        return int(told)

    def is_over(self, step: int) -> bool:
        return self._over

    def learning_rate(self, step: int) -> float:
        place = self._progress.schedule_step(self._terms)
        return learning_rate(self._peak_rate, self._recipe_schedule, place)

    def averages(self, step: int) -> bool:
        """The parties' mean is another one."""
        return False

    def way_out(self, folder: RunFolder, newest: Path | None) -> str:
        """The rates are the federation's: what a party can do about a training that is lost."""
        own = f"from this party's moments in {newest.name}" if newest else "with moments made anew"
        return (
            "What was lost was not published, and the rates are the federation's. Run the same "
            f"'motley federation join' again: it goes on from the state that all share, {own}. If "
            "it comes back, look at this party's text and chips; if other parties see it too, the "
            "rates are too high, and the founder must begin a federation with lower ones."
        )

    def after_step(self, step: int, result: StepResult) -> None:
        began = time.monotonic()
        self._sums.steps += 1
        self._sums.tokens += result.num_targets
        self._sums.loss_sum += result.loss * result.num_targets
        self._progress = Progress(
            self._progress.round, self._progress.steps + 1, self._progress.target
        )
        self._together(stop=result.stop, may_train=True)
        self._sums.paused_s += time.monotonic() - began

    def _together(self, *, stop: bool, may_train: bool, may_wait: bool = True) -> None:
        """What all ranks do between two steps: rank 0 decides, again and again, until it trains.
        `may_wait` is for a round of others, so that a run has begun when it waits for one."""
        to_do = Do.AGAIN
        while Do.AGAIN in to_do:
            told = torch.zeros(4, dtype=torch.int64)
            if self._correspondent:
                asked = stop or self._stop_requested()
                decided = self._decide(
                    self._correspondent, stop=asked, may_train=may_train, may_wait=may_wait
                )
                where = self._after_news() if Do.TAKE in decided else self._progress
                told = torch.tensor([int(decided), where.round, where.steps, where.target])
            self._broadcast(told)
            flags, *place = (int(number) for number in told)
            to_do, self._progress = Do(flags), Progress(*place)
            if Do.GIVE in to_do:
                self._give()
            if Do.TAKE in to_do:
                self._take()
                may_train = True
            if Do.FINISH in to_do:
                self._finish()
            if Do.STOP in to_do:
                self.is_stopped = True

    def _broadcast(self, told: Tensor) -> None:
        if self._model.world_size > 1:
            dist.broadcast(told, src=0, group=self._group)

    def _decide(
        self, correspondent: Correspondent, *, stop: bool, may_train: bool, may_wait: bool
    ) -> Do:
        if self._progress.round >= self._num_rounds:
            return Do.FINISH if self._flushed(correspondent) else Do.AGAIN
        if may_train and self._may_give(correspondent, stop=stop):
            return Do.GIVE | Do.AGAIN
        if stop:
            return Do.STOP if self._flushed(correspondent) else Do.AGAIN
        waits = not may_train or (may_wait and self._must_wait(correspondent))
        news = correspondent.news(LOOK_S if waits and self._news is None else 0.0)
        if news is not None:
            self._news = news.after(self._news)
        if self._news is not None and (waits or self._is_time_to_take()):
            return Do.TAKE | Do.AGAIN
        return Do.AGAIN if waits else Do(0)

    def _flushed(self, correspondent: Correspondent) -> bool:
        """What was given out is with the others; looks again after a while if it is not."""
        if correspondent.is_flushed():
            return True
        news = correspondent.news(LOOK_S)
        if news is not None:
            self._news = news.after(self._news)
        return correspondent.is_flushed()

    def _must_wait(self, correspondent: Correspondent) -> bool:
        """There is nothing to train for until the round is sealed: this process, or an earlier one
        of the party, has given out its work. With `delay_steps` it has trained ahead, too, as far
        as its next update can weigh: more would only take it away from the others."""
        round_, steps = self._progress.round, self._progress.steps
        may_train_ahead = self._terms.delay_steps > 0 and round_ < self._num_rounds - 1
        if may_train_ahead and steps < max(self._progress.target, self._most_ahead):
            return False
        return self._given or not correspondent.takes_work(round_)

    def _is_time_to_take(self) -> bool:
        return not self._given or self._progress.steps >= self._terms.delay_steps

    def _may_give(self, correspondent: Correspondent, *, stop: bool) -> bool:
        round_, steps = self._progress.round, self._progress.steps
        if self._given or not steps or self._news is not None:
            return False
        if not correspondent.takes_work(round_):
            return False
        if stop or steps >= self._progress.target:
            return True
        return steps >= LEAST_SHARE * self._progress.target and correspondent.is_urgent(round_)

    def _after_news(self) -> Progress:
        """Where the party stands when it has taken in what has come."""
        assert self._news is not None
        assert self._correspondent is not None
        target = self._correspondent.steps_for(self._news.round, self._steps_per_s)
        return Progress(self._news.round, self._progress.steps, target)

    def _give(self) -> None:
        local = self._model.gather()
        sums = self._sums
        if self._correspondent:
            trained = sums.trained(self._progress.round, local)
            self._steps_per_s = trained.steps / trained.seconds
            if self._correspondent.submit(trained):
                self._correspondent.record_pause(trained.round, sums.paused_s)
                self._sums = _Sums()
                self._given = True
                self._progress = Progress(self._progress.round, 0, self._progress.target)

    def _take(self) -> None:
        news, self._news = self._news, None
        keep = torch.tensor([news.keep if news else 0.0], dtype=torch.float64)
        self._broadcast(keep)
        self._model.change(news.change if news else {}, keep=float(keep))
        self._given = False

    def _finish(self) -> None:
        state = self._correspondent.final_state() if self._correspondent else {}
        self._model.change(state, keep=0.0)
        self._over = True
