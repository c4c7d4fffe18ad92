"""From a recipe to a run folder that is ready to start: data, vocabulary, cluster, plan."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from motley.cluster import Cluster, check_devices
from motley.data import PreparedData, prepare
from motley.data.selected import Selected
from motley.errors import CorpusError, MotleyError, NoPlanError
from motley.events import EventLog
from motley.model import trainable
from motley.plan.plan import Plan
from motley.plan.search.search import search
from motley.plan.validate import require_executable, validate
from motley.recipe import Recipe
from motley.train.epochs import epochs_message
from motley.train.folder import RunFolder, check_free, create_run_folder, open_run_folder
from motley.train.launch import CHIPS_BACK, lost_chips
from motley.train.samples import selected_samples

Report = Callable[[str], None]

LEAST_USES = 200
"""Of a token in one epoch, in the mean; fewer are told. A rule of thumb, not measured."""

TEXT_CHANGED = (
    "The text is not the one that the run was trained on so far. The run goes on over it as it is "
    "now, with its own tokenizer: some samples may come again and others never, and validations "
    "from before were on other text."
)


def cache_folder() -> Path:
    """Where prepared text is kept between runs: the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "motley" / "data"


def prepare_data(
    recipe: Recipe, report: Report, *, earlier_key: str | None = None
) -> tuple[Recipe, PreparedData]:
    """Tokenizes the recipe's corpus, or finds it done; the recipe gets its vocabulary. For
    `earlier_key` see `motley.data.prepare`."""
    data = recipe.data
    prepared = prepare(
        sources=data.corpus,
        tokenizer_path=Path(data.tokenizer) if data.tokenizer else None,
        vocab_size=data.vocab_size,
        held_out_share=data.held_out_share,
        cache=cache_folder(),
        report=report,
        earlier_key=earlier_key,
    )
    _warn_of_rare_tokens(prepared, report)
    return recipe.with_vocabulary(prepared.tokenizer.vocab_size), prepared


def _warn_of_rare_tokens(prepared: PreparedData, report: Report) -> None:
    """A vocabulary that is larger than the text supports: its tokens are hardly seen."""
    vocab_size, num_tokens = prepared.tokenizer.vocab_size, prepared.train.num_tokens
    if num_tokens < LEAST_USES * vocab_size:
        report(
            f"The vocabulary of {vocab_size} is large for a text of {num_tokens} tokens: one epoch "
            f"shows each {num_tokens / vocab_size:.3g} times in the mean. Lower data.vocab_size or "
            "give more text; 'motley vocabulary RECIPE' compares sizes."
        )


def next_run_path(name: str) -> Path:
    """runs/NAME, or the first of runs/NAME-2, runs/NAME-3 ... that is free."""
    base = Path("runs") / name
    number, path = 1, base
    while path.exists():
        number += 1
        path = base.with_name(f"{name}-{number}")
    return path


def new_run(
    recipe: Recipe, cluster: Cluster, plan: Plan | None, path: Path, report: Report
) -> tuple[RunFolder, Plan]:
    """A run folder with data, plan and everything else that the ranks need."""
    trainable.require_trainable(recipe.model)
    check_free(path)
    recipe, prepared = prepare_data(recipe, report)
    if longer := epochs_message(recipe, prepared.train.num_tokens):
        report(longer)
    if recipe.growth is not None:
        from motley.train.growth import resolved_growth

        recipe = resolved_growth(recipe, prepared.tokenizer.digest)
    plan = _settle(plan, recipe, cluster, report)
    selected = _selected(recipe, prepared, report)
    folder = create_run_folder(path)
    folder.write(recipe, cluster, plan, prepared.folder)
    if selected is not None:
        folder.write_selection(selected)
    return folder, plan


def resume_run(
    path: Path, cluster: Cluster | None, plan: Plan | None, report: Report
) -> tuple[RunFolder, Plan]:
    """An existing run, planned anew for the given cluster or for the chips that it has left."""
    folder = open_run_folder(path)
    recipe, old = folder.recipe(), folder.cluster()
    data = _data_again(folder, report)
    _selection_again(folder, data, report)
    lost = lost_chips(folder) & {chip.name for chip in (cluster or old).chips}
    back = lost if cluster is not None else set()
    if cluster is None:
        cluster = old.without(lost)
        if lost:
            names = ", ".join(sorted(lost))
            report(f"Going on without {names}; name a cluster with --cluster to use it again.")
        if not cluster.chips:
            raise NoPlanError("all chips of the run are lost.", remedy="Name others: --cluster.")
    unchanged = cluster.digest == old.digest and plan is None
    plan = folder.plan() if unchanged else _settle(plan, recipe, cluster, report)
    folder.write(recipe, cluster, plan, data.folder)
    if back:
        names = ", ".join(sorted(back))
        text = f"{names}: lost before, and in use again, as the given cluster has it."
        _tell(folder, report, text, **{CHIPS_BACK: sorted(back)})
    return folder, plan


def _data_again(folder: RunFolder, report: Report) -> PreparedData:
    """The run's own token shards; made again with its own tokenizer if they are gone."""
    known = folder.data()
    try:
        return PreparedData.load(Path(known.folder), known.tokenizer_digest)
    except MotleyError as gone:
        report(f"{gone.message} Preparing the text again.")
    recipe = folder.recipe()
    if not folder.tokenizer_file.is_file():  # of a run that was begun before it was kept
        return prepare_data(recipe, report)[1]
    config = dataclasses.replace(recipe.data, tokenizer=str(folder.tokenizer_file))
    recipe = dataclasses.replace(recipe, data=config)
    data = prepare_data(recipe, report, earlier_key=known.key)[1]
    if known.source_digest not in (None, data.index.source_digest):
        _tell(folder, report, TEXT_CHANGED)
    return data


def _tell(folder: RunFolder, report: Report, text: str, **fields: Any) -> None:
    """Says it now, and in the run's events for its reports."""
    report(text)
    with EventLog.open(folder.events) as log:
        log.write("message", text=text, **fields)


def _selected(recipe: Recipe, data: PreparedData, report: Report) -> Selected | None:
    """The samples to train on, if the recipe selects them."""
    if recipe.selection is None:
        return None
    from motley.train.selection import select

    return select(recipe, data, report)


def _selection_again(folder: RunFolder, data: PreparedData, report: Report) -> None:
    """Makes the run's selection again if it is gone or does not fit the data."""
    recipe = folder.recipe()
    try:
        selected_samples(folder.selection, recipe, data)
    except CorpusError as gone:
        report(f"{gone.message} Selecting the samples again.")
        selected = _selected(recipe, data, report)
        assert selected is not None
        folder.write_selection(selected)


def _settle(plan: Plan | None, recipe: Recipe, cluster: Cluster, report: Report) -> Plan:
    """The plan that the user gave, checked; or the best that is found."""
    check_devices(cluster)
    if plan is None:
        return search(recipe, cluster)
    plan.check(recipe.digest, cluster.digest)
    require_executable(plan)
    validate(plan, recipe, cluster)
    report("Using the given plan.")
    return plan
