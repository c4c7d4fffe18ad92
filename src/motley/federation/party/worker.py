"""One rank of a party, as the launcher starts it: `-m motley.federation.party.worker RUN`.

It is the main job's worker with the course of a party. Rank 0 also holds the party's key and
corresponds with the other parties.
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from motley.data import evaluation_samples
from motley.federation.keys.identity import holding
from motley.federation.log.view import find_charter
from motley.federation.party.correspondence import Correspondence
from motley.federation.party.course import PartyCourse
from motley.federation.party.party_folder import PartyConfig, read_party
from motley.federation.party.rounds import Member
from motley.federation.party.scoring import HeldOutScore
from motley.train.course import Course
from motley.train.journal import Journal
from motley.train.launch import last_step
from motley.train.whole import WholeModel
from motley.train.worker import Rank, main

HELD = ExitStack()
"""What the process holds until it ends: the lock on the party's key."""

GATE_SAMPLES = 16
"""Held-out samples by which an update is judged, if the charter asks for it."""


def party_course(rank: Rank) -> Course:
    """The course of this rank in the federation that its run takes part in."""
    config = read_party(rank.folder.path)
    charter, _ = find_charter(config.open_store(), config.federation)
    return PartyCourse(
        charter,
        WholeModel(rank.engine),
        correspondence(rank, config, rank.journal) if rank.journal else None,
        group=rank.engine.control,
        steps_done=last_step(rank.folder),
        stop_requested=rank.folder.stop_request.exists,
    )


def correspondence(rank: Rank, config: PartyConfig, journal: Journal) -> Correspondence:
    """Rank 0's line to the other parties."""
    identity = HELD.enter_context(holding(Path(config.key)))
    cache = rank.folder.path / "downloads"
    member = Member(
        config.open_store(),
        identity,
        config.federation,
        cache=cache,
        report=journal.message,
    )
    recipe = rank.engine.recipe
    has_gate = member.chain.charter.terms.defences.loss_gate is not None
    held_out = evaluation_samples(rank.data.held_out, recipe.batch.sequence_length, GATE_SAMPLES)
    return Correspondence(
        member,
        chips=_chips(rank),
        record=journal.record,
        cache=cache,
        residuals=rank.folder.path / "residuals",
        score=HeldOutScore(recipe.model, held_out) if has_gate else None,
    )


def _chips(rank: Rank) -> dict[str, int]:
    """Kind to number, of the chips that the plan uses."""
    cluster, plan = rank.folder.cluster(), rank.folder.plan()
    return dict(Counter(cluster.chip(place.stage.chip).kind for place in plan.placements()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], party_course))
