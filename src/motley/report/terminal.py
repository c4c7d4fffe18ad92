"""What the live view and the summary share: a run's figures as text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from rich import box
from rich.table import Table
from rich.text import Text

from motley.report.figures import ChipFigures, RunFigures
from motley.report.history import RunHistory
from motley.report.records import Notice
from motley.report.svg import Scale
from motley.report.words import layers_text, loss_text, shown, size_of, stage_text
from motley.units import duration, percent, si

BARS = "▁▂▃▄▅▆▇█"
MUCH_WAITING = 0.3
"""A share of waiting above this is coloured."""

Cell = str | Text
Column = tuple[str, Callable[[ChipFigures], Cell], int]
"""Title, cell, and the terminal's width from which the column is shown."""


def chip_table(figures: RunFigures, width: int, most_rows: int | None = None) -> Table:
    """A row per chip, with the columns that fit `width`; rows beyond `most_rows` are counted."""
    columns = [column for column in _columns() if width >= column[2]]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for index, (title, _, _) in enumerate(columns):
        is_name = index == 0
        table.add_column(
            title,
            justify="left" if is_name else "right",
            no_wrap=True,
            overflow="ellipsis",
            max_width=24 if is_name else None,
        )
    chips = figures.chips
    if most_rows is not None and len(chips) > most_rows:
        chips = chips[: max(0, most_rows - 1)]
    for chip in chips:
        table.add_row(*[write(chip) for _, write, _ in columns])
    hidden = len(figures.chips) - len(chips)
    if hidden:
        table.add_row(Text(f"and {hidden} more", style="dim"))
    return table


def _columns() -> Sequence[Column]:
    return (
        ("chip", lambda chip: Text(chip.chip.name, style="bold"), 0),
        ("stage", lambda chip: stage_text(chip.chip), 68),
        ("layers", lambda chip: layers_text(chip.chip), 88),
        ("tokens/s", lambda chip: shown(chip.tokens_per_s, si, "-"), 0),
        ("of peak", _utilisation, 0),
        ("peak is", lambda chip: chip.chip.peak_source, 0),
        ("waiting", _waiting, 0),
        ("memory", memory_text, 78),
    )


def _utilisation(figures: ChipFigures) -> Cell:
    if figures.warning:
        return Text("> 100 %", style="bold red")
    return shown(figures.utilisation, percent, "-")


def _waiting(figures: ChipFigures) -> Cell:
    written = shown(figures.waiting_share, percent, "-")
    is_much = figures.waiting_share is not None and figures.waiting_share > MUCH_WAITING
    return Text(written, style="yellow") if is_much else written


def memory_text(figures: ChipFigures) -> str:
    """ "17.5 of 24 GiB"."""
    return size_of(figures.memory_bytes, figures.chip.memory_available_bytes, "-")


def loss_now(history: RunHistory) -> str:
    return f"loss {loss_text(history.steps[-1].loss)}" if history.steps else "no step yet"


def speed_text(figures: RunFigures) -> str:
    """What the run does at the moment, the more important first; what is unknown is left out."""
    parts = []
    if figures.tokens_per_s is not None:
        parts.append(f"{si(figures.tokens_per_s)} tokens/s")
    if figures.remaining_s:
        parts.append(f"{duration(figures.remaining_s)} left")
    if figures.utilisation is not None:
        parts.append(f"{percent(figures.utilisation)} of peak")
    if figures.waiting_share is not None:
        parts.append(f"waiting {percent(figures.waiting_share)}")
    return f"{figures.source}: {' · '.join(parts)}" if parts else ""


def plain_line(history: RunHistory, figures: RunFigures) -> str:
    """The run in one line, for a log or a narrow terminal."""
    parts = (history.how_far, loss_now(history), speed_text(figures))
    return " · ".join(part for part in parts if part)


def notice_text(notice: Notice) -> str:
    """ "chip lost at step 27: mac (rank 2): killed"; a message is itself."""
    if notice.kind == "message":
        return notice.text
    at = "" if notice.step is None else f" at step {notice.step}"
    return f"{notice.kind.replace('_', ' ')}{at}: {notice.text}"


def sparkline(values: Sequence[float], width: int = 16) -> str:
    """The values as a row of small bars, each the mean of a stretch; gaps are blanks."""
    if not values:
        return ""
    width = min(width, len(values))
    cuts = [round(index * len(values) / width) for index in range(width + 1)]
    means = [_finite_mean(values[low:high]) for low, high in pairwise(cuts)]
    scale = Scale.over(means)
    places = [scale.share(mean) for mean in means]
    return "".join(
        BARS[min(len(BARS) - 1, int(place * len(BARS)))] if math.isfinite(place) else " "
        for place in places
    )


def _finite_mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else math.nan
