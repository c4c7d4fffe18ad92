"""`motley report`: a summary in the terminal, and the page."""

from __future__ import annotations

from pathlib import Path

from motley.cli.output import print_json, say
from motley.report.history import RunHistory
from motley.report.page import write_report
from motley.report.summary import summary, summary_dict
from motley.train.folder import open_run_folder


def run(path: Path, *, as_json: bool) -> None:
    folder = open_run_folder(path)
    history = RunHistory.load(folder.path)
    page = write_report(folder.path)
    if as_json:
        print_json({**summary_dict(history), "page": str(page)})
        return
    from rich.console import Console

    Console().print(summary(history))
    say(f"The whole report: {page}")
