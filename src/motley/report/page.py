"""`report.html`: one page that says all of a run, in one file that needs no network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from motley.report.bars import memory_section, time_section
from motley.report.document import (
    alert_list,
    document,
    fact,
    page_header,
    section,
    write_page,
)
from motley.report.federation import federation_section
from motley.report.figures import RunFigures, run_figures
from motley.report.history import RunHistory
from motley.report.loss_chart import loss_section
from motley.report.markup import Markup, join, tag
from motley.report.tables import (
    chips_table,
    log_table,
    predictions_table,
    recipe_lists,
    time_text,
)
from motley.report.timeline_chart import timeline_section
from motley.report.words import STATE_WORDS, loss_text, plural, shown
from motley.units import duration, percent, si

REPORT_FILE = "report.html"


def write_report(run_folder: Path) -> Path:
    """Write the page of a run into its folder, whole or not at all, and return its path.

    `RunFolderError` if the folder is no run, `StorageError` if it cannot be written to.
    """
    history = RunHistory.load(run_folder)
    page = page_html(history, plan_reasons(run_folder))
    return write_page(run_folder / REPORT_FILE, page)


def plan_reasons(run_folder: Path) -> tuple[str, ...]:
    """Why the plan is as it is, from plan.json; nothing if there is none to read."""
    try:
        plan = json.loads((run_folder / "plan.json").read_text(encoding="utf-8"))
        return tuple(str(reason) for reason in plan["reasons"])
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def page_html(history: RunHistory, reasons: tuple[str, ...] = ()) -> str:
    """The whole page as text."""
    figures = run_figures(history)
    return document(
        f"{history.run}: motley report",
        _header(history, figures),
        _sections(history, figures, reasons),
        _footer(history),
        ("page.css",),
    )


def _sections(
    history: RunHistory, figures: RunFigures, reasons: tuple[str, ...]
) -> list[Markup | None]:
    why = tag("ul", *[tag("li", reason) for reason in reasons], class_="reasons")
    return [
        _alerts(history, figures),
        section("loss", "Loss", loss_section(history), source="measured"),
        _federation(history),
        section(
            "chips",
            "Chips",
            join([chips_table(figures), why if reasons else None]),
            "Medians over the steps, without the first.",
        ),
        section(
            "timeline",
            "Timeline of a step",
            timeline_section(history),
            "Per chip: predicted above, measured below, on the same scale.",
        ),
        section(
            "time",
            "Where each chip's time went",
            time_section(figures),
            "Means over the steps, without the first.",
        ),
        section("memory", "Memory", memory_section(figures)),
        section(
            "predictions",
            "Predicted against measured",
            predictions_table(figures),
            "Below zero, the plan was too low. More than 10 % or 10 points is marked.",
        ),
        section("log", "Log", log_table(history)),
        section("recipe", "Recipe, resolved", recipe_lists(history.recipe)),
    ]


def _federation(history: RunHistory) -> Markup | None:
    content = federation_section(history)
    note = "Weights are checked by all parties; what is stated is each party's own statement."
    return section("federation", "Federation", content, note) if content else None


def _header(history: RunHistory, figures: RunFigures) -> Markup:
    state = tag("span", STATE_WORDS[history.state], class_=f"state {history.state}")
    facts = [
        fact("tokens/s", shown(figures.tokens_per_s, si), figures.source),
        fact("step time", shown(figures.step_s, duration), figures.source),
        fact(
            "of the summed peak",
            shown(figures.utilisation, percent),
            figures.source,
            _peak_sources(figures),
        ),
        fact("waiting, mean of chips", shown(figures.waiting_share, percent), figures.source),
        fact("training loss", _last_loss(history), "measured"),
        fact("validation loss", _validation(history), "measured", _bits(history)),
        fact("tokens trained", si(history.tokens), "measured"),
        fact("time running", duration(history.elapsed_s), figures.source),
    ]
    title = join([history.run, " ", state])
    return page_header("motley report", title, _in_short(history), facts)


def _peak_sources(figures: RunFigures) -> str:
    sources = sorted({chip.chip.peak_source for chip in figures.chips})
    quoted = figures.quoted_utilisation
    beside = "" if quoted is None else f"; of the quoted {percent(quoted)}"
    return f"peak: {', '.join(sources)}{beside}" if sources else ""


def _last_loss(history: RunHistory) -> str:
    return loss_text(history.steps[-1].loss) if history.steps else "no step yet"


def _validation(history: RunHistory) -> str:
    return loss_text(history.validations[-1].loss) if history.validations else "none yet"


def _bits(history: RunHistory) -> str:
    if not history.validations:
        return ""
    bits = history.validations[-1].bits_per_byte
    return shown(bits, lambda value: f"{value:.3f} bits per byte", "")


def _in_short(history: RunHistory) -> str:
    """The run in one line: progress, model, chips."""
    parts = [
        history.how_far,
        shown(history.parameters, lambda count: f"{si(count)} parameters"),
        _model(history),
        plural(len(history.measured_segment.chips), "chip"),
    ]
    return " · ".join(part for part in parts if part)


def _model(history: RunHistory) -> str:
    model = history.recipe.get("model")
    if not isinstance(model, Mapping) or not {"layers", "width"} <= set(model):
        return ""
    return f"{model['layers']} blocks of width {model['width']}"


def _alerts(history: RunHistory, figures: RunFigures) -> Markup | None:
    said = [notice.text for notice in history.notices if notice.kind == "chip_lost"]
    alerts = [f"Chip lost: {text}" for text in said]
    if history.state == "failed":
        alerts.append(f"The run failed after step {history.last_step}. {history.failure}")
    if history.state == "running":
        last = time_text(history.segments[-1].last_seen)
        alerts.append(f"The run has not finished. It was last seen at {last}.")
    alerts += figures.warnings
    return alert_list(alerts)


def _footer(history: RunHistory) -> Markup:
    began = time_text(history.segments[0].started)
    return tag(
        "footer",
        tag("p", f"Run began {began}. Made from events.jsonl by motley."),
        tag(
            "p",
            "measured: timed in this run. quoted: from a datasheet. predicted: by the plan. "
            "emulated: timed on a chip that is held to declared rates, so no real chip's figure.",
        ),
    )
