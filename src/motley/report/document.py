"""What the pages share: the shell of a document, its sections, and how it is put in place.

A page is one file of plain HTML and SVG that needs no network; its script only shows tooltips and
switches what is seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

from motley.errors import not_written
from motley.files import write_whole
from motley.report.markup import Child, Markup, tag
from motley.report.tables import badge
from motley.units import Source

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""The browser itself refuses any network request of the page."""


def document(
    title: str, header: Markup, sections: Iterable[Child], footer: Markup, styles: Sequence[str]
) -> str:
    """The whole page as text, with these style sheets of the package."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("title", title),
        tag("style", *[_asset(name) for name in styles]),
    )
    body = tag(
        "body",
        header,
        tag("main", *sections),
        footer,
        tag("div", id="tip", role="status", hidden=True),
        tag("script", _asset("page.js")),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _asset(name: str) -> Markup:
    return Markup(resources.files("motley.report").joinpath(name).read_text(encoding="utf-8"))


def section(
    identity: str, title: str, content: Child, note: Child = None, source: Source | None = None
) -> Markup:
    """A part of the page under its heading; `note` says how to read it."""
    heading = tag("h2", title, badge(source) if source else None, id=f"{identity}-title")
    said = tag("p", note, class_="lead") if note else None
    return tag("section", heading, said, content, id=identity, aria_labelledby=f"{identity}-title")


def page_header(brand: str, title: Child, in_short: str, facts: Iterable[Markup]) -> Markup:
    """What a reader sees first."""
    return tag(
        "header",
        tag("p", brand, class_="brand"),
        tag("h1", title),
        tag("p", in_short, class_="lead"),
        tag("div", *facts, class_="facts"),
    )


def fact(name: str, value: str, source: Source, note: str = "") -> Markup:
    """One large figure."""
    return tag(
        "div",
        tag("span", name, class_="name"),
        tag("span", value, class_="value"),
        tag("span", badge(source), " ", note, class_="muted"),
        class_="fact",
    )


def alert_list(alerts: Sequence[str]) -> Markup | None:
    """What must not be overlooked; nothing if all is well."""
    if not alerts:
        return None
    items = [tag("li", text) for text in alerts]
    return tag("div", tag("ul", *items), class_="alerts", role="alert")


def legend(keys: Iterable[tuple[str, str]], units: str = "") -> Markup:
    """Boxes of these classes and what they mean."""
    items = [tag("li", tag("i", class_=f"box {kind}"), said) for kind, said in keys]
    return tag("ul", *items, tag("li", units, class_="units") if units else None, class_="legend")


def write_page(target: Path, page: str) -> Path:
    """Put the page in place whole or not at all; `StorageError` if it cannot be written."""
    try:
        write_whole(target, page)
    except OSError as cause:
        raise not_written(target, cause) from None
    return target
