"""Chooses the samples of a training by a small reference model, once, before it begins.

The candidates are the first samples of the order that the training would have without a selection;
the reference learns from the last ones of it, so that it scores what it has not seen as long as the
text is long enough. Held-out text is in neither. What is kept goes into the cache under a digest of
all that decides it, and from there into the run.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from motley.data import PreparedData, SampleSource
from motley.data.selected import Selected, SelectionIndex, find, store
from motley.errors import RecipeError
from motley.model.counts import model_counts
from motley.model.transformer import Transformer
from motley.optim.curriculum import samples_before
from motley.optim.flops import selection_flops, training_flops
from motley.optim.selection import (
    early_steps,
    num_candidates,
    num_kept,
    num_snapshots,
    reference_recipe,
    selection_of,
)
from motley.recipe import Recipe
from motley.train.reference import Progress, sample_losses, train_reference
from motley.units import duration, percent, si

Report = Callable[[str], None]

VERSION = 1
"""Of how samples are scored and chosen; a selection of another is not taken from the cache."""
TOLD_EVERY_S = 20.0


@dataclass(frozen=True)
class Scores:
    """What the reference says of each candidate."""

    goodness: NDArray[np.float64]
    """[n] the highest are kept."""
    losses: NDArray[np.float64]
    """[n] at the end of the reference's training, nats per token."""


def require_enough(recipe: Recipe, data: PreparedData) -> None:
    """`RecipeError` unless the text has the samples that are to be scored and learned from."""
    source, wanted = _source(recipe, data), num_candidates(recipe)
    found, length = source.num_samples, recipe.batch.sequence_length
    if wanted > found:
        needed = samples_before(recipe, recipe.schedule.steps)
        share = selection_of(recipe).keep_share
        epochs = needed / max(1.0, share * found)
        raise RecipeError(
            f"selection: {wanted} candidates are more than the {found} samples of {length} tokens "
            f"that the text has; {share:g} of those would be passed {epochs:.3g} times in "
            f"{recipe.schedule.steps} steps.",
            remedy=f"Add text, lower schedule.steps, raise selection.keep_share, or set "
            f"selection.candidates = {found} to repeat what is kept.",
        )
    reference = reference_recipe(recipe)
    learned = reference.schedule.steps * reference.batch.global_batch
    if learned > found:
        raise RecipeError(
            f"selection.reference_share: the reference would learn from {learned} samples, but the "
            f"text has {found}.",
            remedy="Lower it, or add text.",
        )


def select(recipe: Recipe, data: PreparedData, report: Report) -> Selected:
    """The samples to train on, from the cache beside the text's folder if they are there; `recipe`
    has its vocabulary. `RecipeError` as `require_enough`."""
    require_enough(recipe, data)
    cache, key = data.folder.parent, selection_key(recipe, data)
    length = recipe.batch.sequence_length
    found = find(cache, key, data, length, report)
    if found is not None:
        report(f"Selection: taken from {found.folder}, made earlier.")
    else:
        found = _made(recipe, data, key, report)
    report(_said(found.index))
    return found


def selection_key(recipe: Recipe, data: PreparedData) -> str:
    """Sixteen hex digits of all that decides what is kept."""
    config, reference = selection_of(recipe), reference_recipe(recipe).to_dict()
    del reference["data"]
    decides = [
        VERSION, data.index.key, data.index.tokenizer_digest, reference, config.score,
        num_candidates(recipe), num_kept(recipe),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def _source(recipe: Recipe, data: PreparedData) -> SampleSource:
    return SampleSource(data.train, recipe.batch.sequence_length, recipe.seed)


def _made(recipe: Recipe, data: PreparedData, key: str, report: Report) -> Selected:
    began = (time.process_time(), time.monotonic())
    source, candidates = _source(recipe, data), range(num_candidates(recipe))
    _announce(recipe, source, report)
    scores = score_candidates(recipe, source, report)
    is_kept = chosen(scores.goodness, num_kept(recipe))
    numbers = np.array([source.sample(position) for position in candidates])
    dropped = scores.losses[~is_kept]
    index = SelectionIndex(
        key=key,
        data_key=data.index.key,
        tokenizer_digest=data.index.tokenizer_digest,
        sequence_length=source.sequence_length,
        num_candidates=len(candidates),
        num_kept=int(is_kept.sum()),
        kept_sha256="",
        kept_loss=float(scores.losses[is_kept].mean()),
        dropped_loss=float(dropped.mean()) if len(dropped) else None,
        process_s=time.process_time() - began[0],
        wall_s=time.monotonic() - began[1],
    )
    kept = np.sort(numbers[is_kept]).astype("<u4" if source.num_samples < 2**32 else "<u8")
    return store(data.folder.parent, kept, index, data)


def score_candidates(recipe: Recipe, source: SampleSource, report: Report) -> Scores:
    """Trains the reference on the last samples of the first epoch's order and scores the first."""
    reference = reference_recipe(recipe)
    learned = reference.schedule.steps * reference.batch.global_batch
    told = _Told(report, "the reference is trained")
    early, model = _snapshots(reference, source, source.num_samples - learned, told)
    candidates = range(num_candidates(recipe))
    late = sample_losses(model, source, candidates, _Told(report, "the candidates are scored"))
    if num_snapshots(selection_of(recipe)) == 1:
        return Scores(middling(late), late)
    told = _Told(report, "they are scored by the early snapshot")
    return Scores(sample_losses(early, source, candidates, told) - late, late)


def chosen(goodness: NDArray[np.float64], count: int) -> NDArray[np.bool_]:
    """[n] whether each is among the `count` best; of equals the first."""
    is_chosen = np.zeros(len(goodness), dtype=bool)
    is_chosen[np.argsort(-goodness, kind="stable")[:count]] = True
    return is_chosen


def middling(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """[n] highest for the median loss, falling by one with each rank away from it."""
    ranks = np.empty(len(losses))
    ranks[np.argsort(losses, kind="stable")] = np.arange(len(losses))
    return -np.abs(ranks - (len(losses) - 1) / 2)


def _snapshots(
    reference: Recipe, source: SampleSource, first: int, progress: Progress
) -> tuple[Transformer, Transformer]:
    """The reference early in its training and at its end."""
    early_at, early, model = early_steps(reference), None, None
    for step, model in enumerate(train_reference(reference, source, first, progress), 1):
        if step == early_at:
            early = copy.deepcopy(model)
    assert early is not None
    assert model is not None
    return early, model


class _Told:
    """Says now and then how far something has come."""

    def __init__(self, report: Report, what: str) -> None:
        self._report, self._what = report, what
        self._last = time.monotonic()

    def __call__(self, done: float) -> None:
        if done < 1 and time.monotonic() - self._last >= TOLD_EVERY_S:
            self._last = time.monotonic()
            self._report(f"Selection: {self._what}, {percent(done)}.")


def _announce(recipe: Recipe, source: SampleSource, report: Report) -> None:
    reference, candidates = reference_recipe(recipe), num_candidates(recipe)
    learned = reference.schedule.steps * reference.batch.global_batch
    parameters = model_counts(reference.model, source.sequence_length).parameters
    flops = selection_flops(recipe)
    report(
        f"Selection: a reference of {si(parameters)} parameters learns from {learned} samples and "
        f"scores {candidates}, {si(flops)} FLOPs, {percent(flops / training_flops(recipe))} of all."
    )
    if candidates + learned > source.num_samples:
        report(
            "Selection: the text is too short to keep the two apart, so the reference has seen "
            "some of what it scores."
        )


def _said(index: SelectionIndex) -> str:
    text = f"Selection: {index.num_kept} of {index.num_candidates} samples are kept"
    if index.dropped_loss is None:
        return f"{text}; it took {duration(index.wall_s)}."
    return (
        f"{text}; the reference's loss is {index.kept_loss:.3f} on them and "
        f"{index.dropped_loss:.3f} on the others; it took {duration(index.wall_s)}."
    )
