"""Kinds of chips on a page: a colour and a short name for each, and groups of chips in words."""

from __future__ import annotations

from collections.abc import Sequence

from motley.chips.catalog import catalog
from motley.cluster import Cluster
from motley.report.markup import Markup, join, tag

NUM_COLOURS = 8


def short(kind: str) -> str:
    """A catalog id without its vendor: "nvidia-rtx-4090" -> "rtx-4090"; others as they are."""
    row = catalog().get(kind)
    return row.short_id if row else kind


class Palette:
    """A colour for each kind of chip, in the cluster's order; text always stands beside it."""

    def __init__(self, cluster: Cluster) -> None:
        self._kinds = {chip.name: chip.kind for chip in cluster.chips}
        kinds = dict.fromkeys(self._kinds.values())
        self._classes = {kind: f"k{index % NUM_COLOURS}" for index, kind in enumerate(kinds)}

    def of(self, kind: str) -> str:
        """The class of the kind's colour; neutral for a kind that the cluster lacks."""
        return self._classes.get(kind, "other")

    def of_chip(self, name: str) -> str:
        """The class of a chip's kind."""
        return self._classes[self._kinds[name]]

    def named(self, kind: str) -> Markup:
        """The kind with a dot of its colour."""
        return join([tag("i", class_=f"dot {self.of(kind)}", aria_hidden="true"), short(kind)])

    def group(self, chips: Sequence[str]) -> str:
        """Alike chips in words: "8 x rtx-4090", or the only one's name."""
        if len(chips) == 1:
            return chips[0]
        return f"{len(chips)} x {short(self._kinds[chips[0]])}"

    def names(self, chips: Sequence[str]) -> str:
        """Which chips a group has; empty for one, whose name `group` says."""
        return "" if len(chips) == 1 else f"{chips[0]} ... {chips[-1]}"
