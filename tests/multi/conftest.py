from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import jobs
from motley.data import PreparedData
from motley.recipe import Recipe


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, PreparedData]:
    """The small recipe with its vocabulary, and its data."""
    return jobs.prepared(jobs.recipe(), tmp_path_factory.mktemp("data"))
