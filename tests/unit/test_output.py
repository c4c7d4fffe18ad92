"""Files of the user that a command would replace."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from motley.cli.output import keep_old


def test_an_old_file_is_kept_under_the_first_free_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cluster.toml"
    keep_old(path)
    for text in ("first", "second", "third"):
        path.write_text(text)
        keep_old(path)
    assert not path.exists()
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {
        "cluster.toml.bak": "first",
        "cluster.toml.bak2": "second",
        "cluster.toml.bak3": "third",
    }
    assert capsys.readouterr().err.count(" was there; it is ") == 3


def test_what_is_no_file_stays() -> None:
    keep_old(Path(os.devnull))
    assert Path(os.devnull).exists()
