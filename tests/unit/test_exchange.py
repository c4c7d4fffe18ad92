"""The figures of a step go through the exchange without loss (a group of one; `tests/multi` has
groups of several)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from motley.train.exchange import RankReport, exchange

numbers = st.floats(allow_nan=False)
reports = st.builds(RankReport, **{field.name: numbers for field in dataclasses.fields(RankReport)})


@pytest.fixture(scope="module", autouse=True)
def _group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    store: Path = tmp_path_factory.mktemp("store") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@given(reports, st.integers(min_value=0, max_value=6), st.data())
def test_every_figure_arrives_to_the_last_bit(
    report: RankReport, num_buckets: int, data: st.DataObject
) -> None:
    ready = data.draw(
        st.dictionaries(st.sampled_from(range(num_buckets)), numbers) if num_buckets
        else st.just({})
    )  # fmt: skip
    got, moments = exchange(report, ready, num_buckets, None)
    assert got == [report]
    assert moments == [ready]


def test_a_bucket_that_a_rank_does_not_hold_has_no_moment() -> None:
    _, moments = exchange(RankReport(), {2: 1.5}, 4, None)
    assert moments == [{2: 1.5}]


def test_a_loss_that_is_not_finite_arrives_as_such() -> None:
    (got,), _ = exchange(RankReport(loss_sum=math.nan, squared_norm=math.inf), {}, 0, None)
    assert math.isnan(got.loss_sum)
    assert math.isinf(got.squared_norm)


def test_a_clock_of_a_machine_that_is_up_for_years_keeps_its_microseconds() -> None:
    clock = 1e8 + 1e-6
    (got,), _ = exchange(RankReport(clock=clock), {}, 0, None)
    assert got.clock == clock
    assert got.clock > 1e8
