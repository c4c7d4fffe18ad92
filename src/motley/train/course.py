"""The course of a training: how far it goes, at which learning rate, what happens between steps.

A run of its own follows its recipe's schedule. What trains with others (a party of a federation)
has another course, and the loop does not ask which.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from motley.optim.schedule import learning_rate
from motley.recipe import Recipe
from motley.train.engine import StepResult
from motley.train.folder import RunFolder, resume_command


class Course:
    """The recipe's own schedule. Every rank has one; all are called at the same points."""

    bears_rises: ClassVar[bool] = False
    """Whether others change the weights between steps, so that a loss may rise far and come back:
    only what is not finite is lost then."""
    is_stopped: bool = False
    """Whether a stop was asked for while no step was trained, so that none follows."""

    @property
    def num_rounds(self) -> int | None:
        """Rounds with others that the training consists of, if its length is theirs to say."""
        return None

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe

    def begin(self, step: int) -> int:
        """Before the first step, `step` updates are done; the number of updates to go on from."""
        return step

    def is_over(self, step: int) -> bool:
        """Whether the training ends after `step` updates. The same on every rank."""
        return step >= self._recipe.schedule.steps

    def learning_rate(self, step: int) -> float:
        """Of the update that follows `step` updates."""
        return learning_rate(self._recipe.optimizer.learning_rate, self._recipe.schedule, step)

    def averages(self, step: int) -> bool:
        """Whether the weights after `step` updates belong to the mean over the last ones."""
        return self._recipe.schedule.averages(step)

    def after_step(self, step: int, result: StepResult) -> None:
        """`step` updates are done, the last with `result`; its `stop` ends the training."""

    def way_out(self, folder: RunFolder, newest: Path | None) -> str:
        """What to do about a training that is lost, from its newest checkpoint if there is one."""
        if newest is None:
            return (
                "Lower that learning rate or lengthen the warm-up in the recipe and begin a new "
                "run; no checkpoint was saved yet."
            )
        return (
            f"Lower that learning rate or lengthen the warm-up in {folder.recipe_file}, then go on "
            f"from {newest.name}: {resume_command(folder.path)}"
        )
