"""What a run did: from its events to a live view, a summary and a page."""

from motley.report.history import RunHistory
from motley.report.live import follow, render
from motley.report.page import write_report
from motley.report.summary import summary, summary_dict

__all__ = ["RunHistory", "follow", "render", "summary", "summary_dict", "write_report"]
