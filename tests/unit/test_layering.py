"""Imports point one way: a module imports from levels below its own, or from its own part.

The table is the design's order of parts. Imports inside functions count too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import motley.errors

ROOT = Path(motley.errors.__file__).parent

Levels = tuple[tuple[str, ...], ...]

LEVELS: Levels = (
    ("errors", "units", "files"),
    ("schema", "events"),
    ("kernels",),
    ("chips", "model"),
    ("cluster", "recipe", "data"),
    ("optim",),
    ("plan",),
    ("train",),
    ("ablation",),
    ("report", "doctor", "federation"),
    ("cli",),
)
"""The parts of the package, from the bottom up; parts of one level know nothing of each other."""

FEDERATION: Levels = (
    ("keys", "codec"),
    ("storage",),
    ("charter",),
    ("log",),
    ("state",),
    ("party",),
    ("founding", "amending", "verify"),
    ("simulate",),
)
"""The parts of `motley.federation`, from the bottom up."""

ORDERS = {"motley": LEVELS, "motley.federation": FEDERATION}
"""Packages whose parts have an order."""


def level_of(levels: Levels) -> dict[str, int]:
    return {part: level for level, parts in enumerate(levels) for part in parts}


def part_of(module: str, package: str) -> str:
    """ "motley.plan.search.search" in "motley" -> "plan"; the package itself is ""."""
    return module.removeprefix(package).removeprefix(".").partition(".")[0]


def imports_in(source: str, package: str) -> Iterator[tuple[int, str]]:
    """(line, module) of each import of ours, also of those inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: -(node.level - 1) or None]
                base = ".".join([*parents, *base.split(".")]).strip(".")
            if base == "motley":
                yield from ((node.lineno, f"motley.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, base


def violations(source: str, module: str, name: str, package: str = "motley") -> list[str]:
    """The imports of one module that its level in `package` forbids, as "file:line: reason"."""
    own, levels = part_of(module, package), level_of(ORDERS[package])
    found = []
    for line, imported in imports_in(source, module.rpartition(".")[0]):
        other = part_of(imported, package)
        if not imported.startswith(f"{package}.") or other == own:
            continue
        if other not in levels:
            found.append(f"{name}:{line}: '{imported}' is in no level of the table")
        elif levels[other] >= levels[own]:
            found.append(f"{name}:{line}: {own} must not import {imported}")
    return found


def module_name(path: Path) -> str:
    parts = ("motley", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts)


def folder_of(package: str) -> Path:
    return ROOT.joinpath(*package.split(".")[1:])


@pytest.mark.parametrize("package", ORDERS)
def test_imports_point_one_way(package: str) -> None:
    folder = folder_of(package)
    found = [
        violation
        for path in sorted(folder.rglob("*.py"))
        if path != folder / "__init__.py"
        for violation in violations(
            path.read_text(encoding="utf-8"),
            module_name(path),
            str(path.relative_to(ROOT)),
            package,
        )
    ]
    assert not found, "\n".join(["imports against the order of parts:", *found])


@pytest.mark.parametrize("package", ORDERS)
def test_every_part_has_a_level_and_every_level_exists(package: str) -> None:
    there = {
        path.stem
        for path in folder_of(package).iterdir()
        if path.suffix == ".py" or (path.is_dir() and any(path.glob("*.py")))
    }
    assert there - {"__init__"} == set(level_of(ORDERS[package]))


def test_the_walk_finds_what_is_forbidden() -> None:
    source = (
        "from motley.errors import InputError\n"
        "def late():\n"
        "    from motley.train.engine import Engine\n"
        "import motley.cli.main\n"
        "from motley import report\n"
        "from ..plan import search\n"
        "from .config import ModelConfig\n"
        "from motley.mystery import x\n"
    )
    assert sorted(violations(source, "motley.model.layers", "layers.py")) == [
        "layers.py:3: model must not import motley.train.engine",
        "layers.py:4: model must not import motley.cli.main",
        "layers.py:5: model must not import motley.report",
        "layers.py:6: model must not import motley.plan",
        "layers.py:8: 'motley.mystery' is in no level of the table",
    ]


def test_errors_and_units_import_nothing_else_of_the_package() -> None:
    for name in LEVELS[0]:
        source = (ROOT / f"{name}.py").read_text(encoding="utf-8")
        ours = [module for _, module in imports_in(source, "motley") if "motley" in module]
        assert ours == []
