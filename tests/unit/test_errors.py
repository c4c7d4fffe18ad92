"""The tree of errors: drawn, numbered without collision, and readable."""

from __future__ import annotations

import re

import pytest

import motley.errors
from motley.errors import (
    ChipLostError,
    ChipOutOfMemoryError,
    ClusterError,
    InputError,
    MotleyError,
    StorageError,
    nearest,
)


def all_errors(root: type[MotleyError] = MotleyError) -> list[type[MotleyError]]:
    below = [kind for child in root.__subclasses__() for kind in all_errors(child)]
    return [root, *below]


OURS = [kind for kind in all_errors() if kind.__module__ == "motley.errors"]


def test_the_drawing_is_the_tree() -> None:
    drawn = dict(re.findall(r"(\w+Error)\s+(\d+)", motley.errors.__doc__ or ""))
    assert {name: int(code) for name, code in drawn.items()} == {
        kind.__name__: kind.exit_code for kind in OURS
    }


def test_the_drawing_has_the_right_parents() -> None:
    path: list[str] = []
    for line in (motley.errors.__doc__ or "").splitlines():
        match = re.match(r"^    ([│ ├└─]*)(\w+Error)", line)
        if not match:
            continue
        depth = len(match[1]) // 4
        path[depth:] = [match[2]]
        parent = getattr(motley.errors, match[2]).__bases__[0].__name__
        assert parent == (path[-2] if depth else "Exception")
    assert path


def test_exit_codes_are_one_per_class_and_leave_those_of_the_shell_alone() -> None:
    codes = [kind.exit_code for kind in OURS]
    assert len(set(codes)) == len(codes)
    assert all(0 < code < 126 for code in codes)


def test_every_input_error_has_a_code_of_its_kind() -> None:
    for kind in OURS:
        assert issubclass(kind, InputError) == (kind.exit_code == 2 or 10 < kind.exit_code < 20)


def test_text_is_the_message_then_the_remedy() -> None:
    assert str(ClusterError("what happened.", remedy="What to do.")) == (
        "what happened.\nWhat to do."
    )
    assert str(StorageError("what happened.")) == "what happened."


@pytest.mark.parametrize("kind", [ChipLostError, ChipOutOfMemoryError])
def test_an_error_carries_its_chip(kind: type[ChipLostError | ChipOutOfMemoryError]) -> None:
    error = kind("gone.", chip="weak-1")
    assert (error.chip, error.message, error.remedy) == ("weak-1", "gone.", "")


def test_nearest_suggests_only_what_is_near() -> None:
    assert nearest("weak-2", ["strong", "weak-1"]) == "Did you mean 'weak-1'?"
    assert nearest("zebra", ["strong", "weak-1"]) == ""
    assert nearest("x", []) == ""
