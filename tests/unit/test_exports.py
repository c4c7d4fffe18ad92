"""Public names: each package's `__all__` is sorted and true; light parts stay free of torch."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import motley.errors

ROOT = Path(motley.errors.__file__).parent
PACKAGES = sorted(
    f"motley.{path.parent.name}"
    for path in ROOT.glob("*/__init__.py")
    if "\nfrom motley" in path.read_text(encoding="utf-8")
)
TORCH_FREE = (
    "motley.cli.app",
    "motley.cli.planning",
    "motley.cli.reporting",
    "motley.cli.training",
    "motley.cluster",
    "motley.data",
    "motley.model",
    "motley.plan",
    "motley.recipe",
    "motley.report",
)
"""A process that imports these starts at once; torch takes seconds."""


def exported(package: str) -> list[str]:
    return list(getattr(importlib.import_module(package), "__all__", []))


def test_the_packages_are_found() -> None:
    assert {"motley.chips", "motley.data", "motley.model", "motley.plan"} <= set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_sorted_and_every_name_is_there(package: str) -> None:
    names = exported(package)
    assert names, f"{package} has no __all__"
    # ruff's order (RUF022): constants, classes, the rest.
    in_order = sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    assert names == in_order
    assert len(set(names)) == len(names)
    module = importlib.import_module(package)
    assert [name for name in names if not hasattr(module, name)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_of_a_package_is_in_all(package: str) -> None:
    module = importlib.import_module(package)
    ours = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and str(getattr(value, "__module__", "")).startswith("motley")
    }
    assert ours <= set(exported(package))


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "py.typed").is_file()


@pytest.mark.parametrize("module", TORCH_FREE)
def test_importing_it_imports_no_torch(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'transformers'}} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True
    )
    assert done.stdout.strip() == "[]"


def test_help_imports_no_torch_and_no_numbers() -> None:
    code = (
        "import sys, motley.cli.main as main\n"
        "sys.argv = ['motley', '--help']\n"
        "try: main.run()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'numpy', 'tokenizers', 'rich.console'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True
    )
    assert "Usage: motley" in done.stdout
    assert done.stderr.strip() == "[]"
