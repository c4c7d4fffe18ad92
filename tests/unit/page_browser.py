"""A page as a parser and as a headless Chromium see it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

VOID = ("meta", "input")


class Outline(HTMLParser):
    """The elements of a page: balanced or not, their ids, and where they point to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.num_scripts = 0
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.num_scripts += tag == "script"
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            if name in ("src", "href", "action", "srcset"):
                self.links.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


MEASURE = """
<script>
window.addEventListener("load", () => {
  const found = { inner: window.innerWidth, own: document.documentElement.clientWidth,
    wide: document.documentElement.scrollWidth };
  found.sections = [...document.querySelectorAll("section")].filter(
    (section) => section.getBoundingClientRect().height > 60).map((section) => section.id);
  %(script)s
  found.outside = [...document.querySelectorAll("%(inside)s")]
    .filter((element) => element.getBoundingClientRect().right > found.own + .5)
    .map((element) => element.className || element.tagName);
  parent.postMessage(JSON.stringify(found), "*");
});
</script>
"""

FRAME = """<!doctype html><pre id="probe"></pre>
<script>addEventListener("message", (event) => {
  document.getElementById("probe").textContent = event.data;
});</script>
<iframe src="probed.html" style="border: 0; width: {width}px; height: 900px"></iframe>
"""
"""A window is never narrower than 500 pixels in headless Chromium; a frame may be."""


def browse(page: Path, folder: Path, width: int) -> tuple[str, str]:
    """The page's document after its scripts ran, and what the browser logged."""
    if CHROMIUM is None:
        pytest.skip("no chromium here: 'apt-get install chromium' to test the page in a browser")
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", f"--user-data-dir={folder / 'profile'}",
        f"--window-size={width},900", "--enable-logging=stderr",
        "--virtual-time-budget=3000", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    environment = {**os.environ, "HOME": str(folder)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, done.stderr


def probe(folder: Path, page: str, width: int, script: str, inside: str) -> dict[str, Any]:
    """What a script inside the page finds; fails if the browser's console got anything.

    `script` adds to `found`; `outside` lists the elements of `inside` that leave the window.
    """
    measure = MEASURE % {"script": script, "inside": inside}
    probed = page.replace("</body>", f"{measure}</body>")
    (folder / "probed.html").write_text(probed, encoding="utf-8")
    frame = folder / "frame.html"
    frame.write_text(FRAME.replace("{width}", str(width)), encoding="utf-8")
    document, logged = browse(frame, folder, width + 100)
    assert "CONSOLE" not in logged, logged[-2000:]
    match = re.search(r'<pre id="probe">(.*?)</pre>', document, re.DOTALL)
    assert match, document[-2000:]
    found: dict[str, Any] = json.loads(unescape(match[1]))
    return found
