"""`motley train`: prepare, plan, show the plan, start the ranks, show progress, explain the end."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path

from motley.cli.output import print_json, say
from motley.cli.planning import cluster_for, require_hours, show_plan
from motley.cli.scaling import scaled_to_hours
from motley.cli.stopping import stopping
from motley.cluster import Cluster, load_cluster
from motley.errors import InputError
from motley.plan.plan import load_plan
from motley.recipe import Recipe, load_recipe
from motley.recipe.packaged import packaged_recipe
from motley.report.history import RunHistory
from motley.report.live import follow
from motley.report.summary import summary_dict
from motley.train.folder import RunFolder, check_free, resume_command
from motley.train.launch import Job, start
from motley.train.prepare import new_run, next_run_path, resume_run

HOURS = 1.0
"""Of a training whose user named neither a recipe nor a time."""


@dataclass(frozen=True)
class What:
    """What to train: a recipe, a run to go on with, or neither for the frugal recipe."""

    recipe_file: Path | None
    hours: float | None
    """Of the frugal recipe, and the text in place of its own."""
    corpus: tuple[Path, ...]
    resume: Path | None

    def __post_init__(self) -> None:
        named = self.recipe_file is not None or self.resume is not None
        if named and (self.hours is not None or self.corpus):
            raise InputError(
                "--hours and --data are for a training without a recipe.",
                remedy="A recipe names its text; motley scale RECIPE --hours N changes its size.",
            )
        require_hours(self.hours)


def run(
    what: What,
    cluster_file: Path | None,
    plan_file: Path | None,
    run_path: Path | None,
    *,
    as_json: bool,
) -> None:
    """Trains to the end; raises the one error that explains why it could not."""
    folder = _prepare(what, cluster_file, plan_file, run_path, as_json=as_json)
    say(f"Training in {folder.path}. Ctrl-C saves and stops.")
    go_on = resume_command(folder.path)
    watch(start(folder), go_on, quiet=as_json)
    say_end(folder, go_on, as_json=as_json)


def watch(job: Job, go_on: str, *, quiet: bool) -> None:
    """Shows a run to its end; `go_on` is the command that resumes it. Raises what made it fail."""
    folder = job.folder
    with stopping(job):
        if quiet:
            job.process.wait()
        else:
            follow(folder.events, lambda: not job.is_running)
    if job.was_killed:
        say(f"Ended at once. Go on from the newest checkpoint: {go_on}")
        raise KeyboardInterrupt
    failure = job.failure()
    if failure is not None:
        failure.remedy = failure.remedy.replace("motley train --resume RUN", go_on)
        raise failure


def say_end(folder: RunFolder, go_on: str, *, as_json: bool) -> None:
    """The summary of a run as data, or where to go from here."""
    if as_json:
        print_json(summary_dict(RunHistory.load(folder.path)))
    else:
        say(_last_words(folder, go_on))


def _last_words(folder: RunFolder, go_on: str) -> str:
    if RunHistory.load(folder.path).state == "stopped":
        return f"Stopped and saved. Go on with: {go_on}"
    return f"Done. See it: {shlex.join(['motley', 'report', str(folder.path)])}"


def _prepare(
    what: What,
    cluster_file: Path | None,
    plan_file: Path | None,
    run_path: Path | None,
    *,
    as_json: bool,
) -> RunFolder:
    given_plan = load_plan(plan_file) if plan_file else None
    if what.resume is not None:
        if what.recipe_file is not None or run_path is not None:
            raise InputError(
                "--resume goes on with a run's own recipe and folder.",
                remedy="Leave out the recipe and --run.",
            )
        cluster = load_cluster(cluster_file) if cluster_file else None
        folder, plan = resume_run(what.resume, cluster, given_plan, say)
    else:
        given = load_recipe(what.recipe_file) if what.recipe_file else None
        if run_path is not None:
            check_free(run_path)
        cluster = cluster_for(cluster_file)
        recipe = _frugal(what, cluster) if given is None else given
        path = run_path or next_run_path(recipe.name)
        folder, plan = new_run(recipe, cluster, given_plan, path, say)
    if not as_json:
        show_plan(plan, folder.recipe(), folder.cluster())
    return folder


def _frugal(what: What, cluster: Cluster) -> Recipe:
    """The recipe that is taken where none is named, at the best size; each change is said."""
    hours = HOURS if what.hours is None else what.hours
    say(f"No recipe given: the frugal one, scaled to {hours:g} h of these chips (predicted).")
    recipe = load_recipe(packaged_recipe())
    if what.corpus:
        corpus = tuple(str(path.resolve()) for path in what.corpus)
        recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, corpus=corpus))
    transfer = scaled_to_hours(recipe, cluster, hours)
    for change in transfer.changes:
        say(f"  {change}")
    return transfer.recipe
