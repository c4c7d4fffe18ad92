"""Calibration finds the scales that a run was made with, and refuses what says too little."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley.cluster import Cluster, parse_cluster
from motley.errors import MotleyError, ProbeError, RunFolderError
from motley.plan.calibration import calibrate
from motley.plan.plan import Plan
from motley.plan.search.build import even_data_parallel
from motley.plan.simulate import simulate
from motley.recipe import Recipe, parse_recipe

RECIPE = parse_recipe(
    {"model": {"preset": "gpt2"}, "batch": {"sequence_length": 256, "global_batch": 16}}
)


def cluster(gbit: float) -> Cluster:
    kinds = ("a100-sxm-40g", "rtx-3090")
    groups = [{"kind": kind, "count": 1, "network_gbit_per_s": gbit} for kind in kinds]
    return parse_cluster({"group": groups})


def run_of(plan: Plan, recipe: Recipe, true: Cluster, jitter: float = 0.0) -> list[dict[str, Any]]:
    """The events of a run on a cluster that takes the times of `true`."""
    step = simulate(plan, recipe, true)
    stages = [place.stage for place in plan.placements()]
    events = []
    for number in range(12):
        factor = 1 + jitter * (number % 3 - 1)
        chips = [
            {
                "name": stage.chip,
                "compute_s": share * step.step_s * factor * 0.9,
                "optimizer_s": share * step.step_s * factor * 0.1,
            }
            for stage, share in zip(stages, step.busy_share, strict=True)
        ]
        events.append({"event": "step", "step_s": step.step_s * factor, "chips": chips})
    return events


def slower(base: Cluster, scales: dict[str, float]) -> Cluster:
    return dataclasses.replace(
        base,
        chips=tuple(dataclasses.replace(chip, time_scale=scales[chip.kind]) for chip in base.chips),
    )


@settings(max_examples=15, deadline=None)
@given(st.floats(0.5, 3), st.floats(0.5, 3))
def test_the_scales_of_every_kind_are_found(first: float, second: float) -> None:
    base = cluster(200)
    scales = {"nvidia-a100-sxm-40g": first, "nvidia-rtx-3090": second}
    plan = even_data_parallel(RECIPE, base)
    found = calibrate(run_of(plan, RECIPE, slower(base, scales)), plan, RECIPE, base)
    for fit in found.kinds:
        assert fit.time_scale == pytest.approx(scales[fit.kind], rel=1e-6)
    assert found.after_step_s == pytest.approx(found.measured_step_s, rel=0.03)
    again = calibrate(run_of(plan, RECIPE, slower(base, scales)), plan, RECIPE, found.cluster)
    assert [fit.time_scale for fit in again.kinds] == pytest.approx(
        [fit.time_scale for fit in found.kinds], rel=1e-6
    )


def test_a_narrow_network_is_found_by_what_is_left_of_the_step() -> None:
    base, true = cluster(10), cluster(10)
    true = dataclasses.replace(
        true,
        links=tuple(
            dataclasses.replace(
                link, bandwidth_bytes_per_s=0.4 * link.bandwidth_bytes_per_s, source="measured"
            )
            for link in true.links
        ),
    )
    plan = even_data_parallel(RECIPE, base)
    found = calibrate(run_of(plan, RECIPE, true), plan, RECIPE, base)
    assert found.link is not None
    assert found.link.level == "between nodes"
    assert found.link.share == pytest.approx(0.4, rel=0.01)
    assert found.after_step_s == pytest.approx(found.measured_step_s, rel=1e-3)
    assert {link.source for link in found.cluster.links} == {"measured"}


def test_a_wide_network_is_left_alone() -> None:
    base = cluster(100_000)
    plan = even_data_parallel(RECIPE, base)
    found = calibrate(run_of(plan, RECIPE, base), plan, RECIPE, base)
    assert found.link is None
    assert "too little to tell" in found.notes[0]
    assert found.cluster.links == base.links


@pytest.mark.parametrize(
    ("count", "jitter", "error", "why"),
    [
        (6, 0.0, RunFolderError, "the run has 6 steps"),
        (12, 0.2, ProbeError, "vary by"),
    ],
)
def test_too_short_and_too_noisy_runs(
    count: int, jitter: float, error: type[MotleyError], why: str
) -> None:
    base = cluster(100)
    plan = even_data_parallel(RECIPE, base)
    events = run_of(plan, RECIPE, base, jitter)[:count]
    with pytest.raises(error, match=why):
        calibrate(events, plan, RECIPE, base)


def test_an_emulated_chip_has_no_scale() -> None:
    table = {
        "name": "a", "kind": "x", "emulated": True, "flops_per_s": {"fp32": 1e9},
        "memory_bytes": 10**9, "memory_bandwidth_bytes_per_s": 1e9, "time_scale": 1.1,
    }  # fmt: skip
    with pytest.raises(MotleyError, match="an emulated chip is held to its figures"):
        parse_cluster({"chip": [table]})
