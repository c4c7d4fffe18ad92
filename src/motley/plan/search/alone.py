"""What one kind of chips does best alone with its share of the batch, to stand beside others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from motley.cluster import Cluster
from motley.plan.search.blocks import Names
from motley.plan.search.choices import Split
from motley.plan.search.classes import BlockClasses, joined
from motley.plan.search.groupings import Cut
from motley.plan.search.splits import Found, SplitSearch
from motley.plan.search.unions import Options, Part

KEPT_OF_EACH = 4

OPTIONS_OF_EACH = 2
"""Of what a kind does alone, from each cut, that are tried beside other kinds."""

OPTIONS = 5
"""Of them in all."""


class Candidate(NamedTuple):
    """A split over groups of chips, and its simulated step; the lower the score, the better."""

    score: float
    step_s: float
    split: Split
    groups: tuple[Names, ...]

    @property
    def order(self) -> tuple[float, int, Split]:
        """Of equally good ones that with the fewest groups comes first."""
        return self.score, len(self.groups), self.split


class Alone(NamedTuple):
    """What one kind does best with some samples."""

    samples: int
    candidates: list[Candidate]
    """The best first; none if the model does not fit."""
    cut: Cut
    """That of the best candidate, or the first where there is none."""

    @classmethod
    def of(cls, samples: int, searches: Sequence[tuple[Cut, SplitSearch]]) -> Alone:
        """The best of what the searches find, each over the kind in one cut."""
        found = [
            (on_chips(each, search.classes), how)
            for how, search in searches
            for each in search.run()[:OPTIONS_OF_EACH]
        ]
        best = sorted(found, key=lambda pair: pair[0].order)[:OPTIONS]
        cut = best[0][1] if best else searches[0][0]
        return cls(samples, [candidate for candidate, _ in best], cut)

    def options(self, cluster: Cluster) -> Options:
        """To stand beside other kinds; none if the model does not fit."""
        return tuple(self._part(each, cluster) for each in self.candidates)

    def _part(self, candidate: Candidate, cluster: Cluster) -> Part:
        chips = tuple(cluster.chip(name) for name in joined(candidate.groups))
        return Part(candidate.split, candidate.groups, self.samples / candidate.step_s, chips)


def on_chips(found: Found, classes: BlockClasses) -> Candidate:
    """The split with the chips of actual units in place of types of blocks, in order."""
    left = [iter(members) for members in classes.members]
    groups: list[Names] = []
    replicas = []
    for replica in sorted(found.split, key=lambda each: (-each.num_samples, each.stages)):
        held: list[int] = []
        for block in replica.blocks:
            held.append(len(groups))
            groups.append(
                joined(
                    next(members)
                    for members, count in zip(left, classes.needs[block], strict=True)
                    for _ in range(count)
                )
            )
        stages = tuple(
            stage._replace(block=held[group])
            for group, stage in zip(replica.held_by, replica.stages, strict=True)
        )
        replicas.append(replica._replace(stages=stages))
    return Candidate(found.score, found.step_s, tuple(replicas), tuple(groups))
