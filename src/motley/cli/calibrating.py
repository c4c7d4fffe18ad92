"""`motley calibrate`: a short real run, or an older one, corrects a cluster's predicted times."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from motley.chips.cluster_text import cluster_toml, link_key
from motley.cli.output import print_json, require_writable, say, write_text
from motley.cli.planning import cluster_for, show
from motley.cluster import load_cluster
from motley.errors import InputError
from motley.events import read_events
from motley.plan.calibration import Calibration, calibrate
from motley.plan.trust import error_band
from motley.recipe import Recipe, load_recipe
from motley.train.folder import RunFolder, open_run_folder, resume_command
from motley.train.prepare import new_run, next_run_path
from motley.units import duration, percent


def run(
    run_path: Path | None,
    recipe_file: Path | None,
    cluster_file: Path | None,
    steps: int,
    out: Path,
    *,
    as_json: bool,
) -> None:
    """Runs if there is no run, fits, prints, writes `out`."""
    if (run_path is None) == (recipe_file is None):
        raise InputError(
            "give a run or a recipe to run." if run_path is None else "a run has its own recipe.",
            remedy="motley calibrate RUN, or motley calibrate --recipe R --cluster C.",
        )
    require_writable(out)
    if recipe_file is not None:
        folder = _short_run(load_recipe(recipe_file), cluster_file, steps, as_json=as_json)
        cluster = folder.cluster()
    else:
        assert run_path is not None
        folder = open_run_folder(run_path)
        cluster = load_cluster(cluster_file) if cluster_file else folder.cluster()
    events = read_events(folder.events)
    found = calibrate(events, folder.plan(), folder.recipe(), cluster)
    _write(found, folder, events[-1]["time"], out)
    if as_json:
        print_json(_data(found))
    else:
        _show(found)
        say(f"Written to {out}.")


def _short_run(
    recipe: Recipe, cluster_file: Path | None, steps: int, *, as_json: bool
) -> RunFolder:
    """Some steps of the recipe, without its checkpoints, validations and selection of samples."""
    from motley.cli.training import watch
    from motley.train.launch import start

    short = dataclasses.replace(
        recipe,
        name=f"{recipe.name}-calibration",
        schedule=dataclasses.replace(recipe.schedule, steps=steps),
        validation=dataclasses.replace(recipe.validation, every_steps=steps),
        checkpoint=dataclasses.replace(recipe.checkpoint, every_steps=steps),
        selection=None,
    )
    cluster = cluster_for(cluster_file)
    folder, _ = new_run(short, cluster, None, next_run_path(short.name), say)
    say(f"Training {steps} steps in {folder.path}.")
    watch(start(folder), resume_command(folder.path), quiet=as_json)
    return folder


def _write(found: Calibration, folder: RunFolder, ended: float, out: Path) -> None:
    day = time.strftime("%Y-%m-%d", time.gmtime(ended))
    origin = f"measured {day} by motley calibrate, {found.num_steps} steps of {folder.path.name}"
    comments: dict[str, list[str]] = {
        "": [
            f"Times calibrated: {origin}. A time_scale holds for all chips of its kind; it can be "
            "copied into any [[chip]] or [[group]] of that kind."
        ]
    }
    fitted = {fit.kind for fit in found.kinds if not fit.emulated}
    for chip in found.cluster.chips:
        if chip.kind in fitted and not chip.emulated:
            comments[f"{chip.name}.time_scale"] = [origin]
    if found.link:
        for link in found.cluster.links:
            if link.source == "measured" and not link.emulated:
                comments[link_key(link)] = [f"{origin}, if it is one {found.link.level}"]
    cluster = found.cluster
    write_text(out, cluster_toml(cluster.name, cluster.chips, cluster.links, comments))


def _data(found: Calibration) -> dict[str, object]:
    return {
        "num_steps": found.num_steps,
        "measured_step_s": found.measured_step_s,
        "predicted_step_s": {"before": found.before_step_s, "after": found.after_step_s},
        "kinds": [dataclasses.asdict(fit) for fit in found.kinds],
        "link": dataclasses.asdict(found.link) if found.link else None,
        "notes": list(found.notes),
    }


def _show(found: Calibration) -> None:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    table.add_column("")
    for title in ("predicted", "measured", "varies by", "time_scale"):
        table.add_column(title, justify="right", no_wrap=True)
    for fit in found.kinds:
        scale = "emulated" if fit.emulated else f"{fit.time_scale:.4g}"
        times = duration(fit.predicted_s), duration(fit.measured_s), percent(fit.spread)
        table.add_row(f"{fit.num_chips} x {fit.kind}, work of a step", *times, scale)
    step = found.measured_step_s
    lines = [
        f"Step: measured {duration(step)} (median of {found.num_steps}); predicted "
        f"{duration(found.before_step_s)} before ({_off(found.before_step_s, step)}), "
        f"{duration(found.after_step_s)} after ({_off(found.after_step_s, step)})."
    ]
    if found.link:
        share = percent(found.link.share)
        lines.append(f"Links {found.link.level} reach {share} of their stated bandwidth.")
    lines += found.notes
    lines.append(f"Other steps, with one scale fitted: {error_band('median_error_calibrated')}.")
    show(Group(table, "", *(Text(line) for line in lines)))


def _off(predicted_s: float, measured_s: float) -> str:
    return f"{(predicted_s - measured_s) / measured_s:+.1%}"
