from __future__ import annotations

from collections.abc import Iterator

import pytest

import jobs
from motley.data import PreparedData
from motley.recipe import Recipe


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is read from or left in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, PreparedData]:
    """The small recipe with its vocabulary, and its data."""
    return jobs.prepared(jobs.recipe(), tmp_path_factory.mktemp("data"))
