"""Files that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from motley.files import write_whole


def test_what_was_there_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in ("first", "ä second"):
        write_whole(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_where_it_cannot_be_put_nothing_is_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "taken"
    path.mkdir()
    with pytest.raises(OSError, match="taken"):
        write_whole(path, "text")
    assert [each.name for each in tmp_path.iterdir()] == ["taken"]


def test_a_write_that_breaks_off_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_whole(path, "whole")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "half \ud800")
    assert path.read_text(encoding="utf-8") == "whole"
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]
