"""A table that becomes a few lines for each row where a terminal is too narrow for its columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

INDENT = 2


@dataclass(frozen=True)
class TableOrLines:
    """The table with its rows, given again as text: the first cell names the row."""

    table: Table
    rows: Sequence[Sequence[Text]]

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        if Measurement.get(console, options.update(max_width=10_000), self.table).minimum <= (
            options.max_width
        ):
            yield self.table
            return
        titles = [str(column.header) for column in self.table.columns]
        for name, *cells in self.rows:
            yield name
            figures = [
                Text(f"{title} ").append_text(cell)
                for title, cell in zip(titles[1:], cells, strict=True)
                if cell
            ]
            for line in _filled(figures, options.max_width - INDENT):
                yield Padding(line, (0, 0, 0, INDENT))


def _filled(figures: Sequence[Text], width: int) -> Iterator[Text]:
    """Lines of as many figures as they hold: none is torn apart."""
    line: list[Text] = []
    for figure in figures:
        if line and Text(", ").join([*line, figure]).cell_len >= width:
            yield Text(", ").join(line).append(",")
            line = []
        line.append(figure)
    yield Text(", ").join(line)
