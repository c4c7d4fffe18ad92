"""A rank whose course takes the whole model out of the running job and puts another in."""

from __future__ import annotations

import sys

import torch

from motley.train.course import Course
from motley.train.engine import StepResult
from motley.train.whole import WholeModel
from motley.train.worker import Rank, main


class Swap(Course):
    """After step 2: keeps a copy, halves everything and adds one; then replaces one parameter."""

    def __init__(self, rank: Rank) -> None:
        super().__init__(rank.engine.recipe)
        self._rank = rank
        self._whole = WholeModel(rank.engine)

    def after_step(self, step: int, result: StepResult) -> None:
        if step != 2:
            return
        before = self._whole.gather()
        self._whole.change(
            {name: torch.ones_like(value) for name, value in before.items()}, keep=0.5
        )
        name = min(before, default="")
        self._whole.change({name: before[name]} if before else {}, keep=0.0)
        after = self._whole.gather()
        if self._rank.journal:
            torch.save((before, after), self._rank.folder.path / "whole.pt")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Swap))
