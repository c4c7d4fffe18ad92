"""Imports point one way: a module imports from levels below its own, or from its own part.

The table is the design's order of parts. Imports inside functions count too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import motley.errors

ROOT = Path(motley.errors.__file__).parent

LEVELS = (
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

LEVEL_OF = {part: level for level, parts in enumerate(LEVELS) for part in parts}


def part_of(module: str) -> str:
    """ "motley.plan.search.search" -> "plan"; the package itself is ""."""
    return module.partition(".")[2].partition(".")[0]


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


def violations(source: str, module: str, name: str) -> list[str]:
    """The imports of one module that its level forbids, as "file:line: reason"."""
    own, package = part_of(module), module.rpartition(".")[0]
    found = []
    for line, imported in imports_in(source, package):
        other = part_of(imported)
        if not imported.startswith("motley.") or other == own:
            continue
        if other not in LEVEL_OF:
            found.append(f"{name}:{line}: '{imported}' is in no level of the table")
        elif LEVEL_OF[other] >= LEVEL_OF[own]:
            found.append(f"{name}:{line}: {own} must not import {imported}")
    return found


def module_name(path: Path) -> str:
    parts = ("motley", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts)


def test_imports_point_one_way() -> None:
    found = [
        violation
        for path in sorted(ROOT.rglob("*.py"))
        if path != ROOT / "__init__.py"
        for violation in violations(
            path.read_text(encoding="utf-8"), module_name(path), str(path.relative_to(ROOT))
        )
    ]
    assert not found, "\n".join(["imports against the order of parts:", *found])


def test_every_part_has_a_level_and_every_level_exists() -> None:
    there = {
        path.stem
        for path in ROOT.iterdir()
        if path.suffix == ".py" or (path.is_dir() and any(path.glob("*.py")))
    }
    assert there - {"__init__"} == set(LEVEL_OF)


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
