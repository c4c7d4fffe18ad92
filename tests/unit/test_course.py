"""What a course says of a training, as the loop hands it on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch

from motley.federation.party.course import PartyCourse
from motley.federation.party.lone import lone_engine, lone_process
from motley.recipe import parse_recipe
from motley.train.checkpoint import CheckpointWriter
from motley.train.course import Course
from motley.train.folder import RunFolder
from motley.train.loop import Training
from motley.train.newest import Expected


class Over(Course):
    """There is nothing to train."""

    def is_over(self, step: int) -> bool:
        return True


class PartyOver(Over):
    bears_rises = PartyCourse.bears_rises


@pytest.mark.parametrize(("kind", "bears"), [(Over, False), (PartyOver, True)])
def test_only_with_others_a_loss_may_rise(tmp_path: Path, kind: type[Course], bears: bool) -> None:
    recipe = parse_recipe(
        {
            "model": {"layers": 1, "width": 8, "heads": 1, "context": 8, "vocab_size": 16},
            "batch": {"sequence_length": 8, "global_batch": 1},
        }
    )
    with lone_process():
        engine = lone_engine(recipe)
        Training(
            engine=engine,
            course=kind(recipe),
            folder=RunFolder(tmp_path),
            writer=CheckpointWriter(tmp_path, 1, engine.control, is_leader=True),
            journal=None,
            samples=cast(Any, None),
            held_out=cast(Any, None),
            token_bytes=torch.zeros(16),
            expected=Expected("", {}),
        ).run(0)
    assert engine.watch.bears_rises == bears


@pytest.mark.parametrize("newest", [None, Path("step-00000010")])
def test_who_trains_with_others_is_not_sent_to_a_recipe_that_is_not_its_own(
    tmp_path: Path, newest: Path | None
) -> None:
    folder = RunFolder(tmp_path)
    alone = Course.way_out(cast(Any, None), folder, newest)
    assert "Lower that learning rate" in alone
    assert ("recipe.json" in alone) == (newest is not None)
    party = PartyCourse.way_out(cast(Any, None), folder, newest)
    assert "the same 'motley federation join' again" in party
    assert "recipe.json" not in party
    assert (newest is None) == ("moments made anew" in party)
