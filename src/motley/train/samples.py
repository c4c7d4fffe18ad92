"""The samples of a run in the order of its recipe: all of the text's, or the selected ones."""

from __future__ import annotations

from pathlib import Path

from motley.data import PreparedData, SampleSource
from motley.data.selected import Kept, Selected
from motley.recipe import Recipe


def training_samples(selection: Path, recipe: Recipe, data: PreparedData) -> SampleSource:
    """What a run is trained on; `selection` is its folder of them. `CorpusError` if the recipe
    selects and that folder is missing, damaged or of other data."""
    kept = selected_samples(selection, recipe, data)
    return SampleSource(data.train, recipe.batch.sequence_length, recipe.seed, kept=kept)


def selected_samples(selection: Path, recipe: Recipe, data: PreparedData) -> Kept | None:
    """[n] the numbers of the selected samples; None for a recipe that does not select."""
    if recipe.selection is None:
        return None
    return Selected.load(selection, data, recipe.batch.sequence_length).kept
