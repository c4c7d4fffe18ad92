"""The order of passes under each schedule, and how many micro-batches they make a stage keep."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley.plan.timing.schedule import (
    KINDS,
    Action,
    Schedule,
    execution_order,
    in_flight,
    in_flight_of,
    one_forward_one_backward,
)
from pipeline_cases import device_lists, turned


def text(stage: int, num_stages: int, num_micro_batches: int, schedule: Schedule) -> str:
    """What a stage runs, as "f0 b0 w0 ..."."""
    order = execution_order(tuple(range(num_stages)), num_micro_batches, schedule)
    return " ".join(f"{KINDS[one.kind][0]}{one.micro_batch}" for one in order if one.stage == stage)


def test_1f1b_of_three_stages_and_four_micro_batches() -> None:
    assert text(0, 3, 4, "1f1b") == "f0 f1 f2 b0 f3 b1 b2 b3"
    assert text(1, 3, 4, "1f1b") == "f0 f1 b0 f2 b1 f3 b2 b3"
    assert text(2, 3, 4, "1f1b") == "f0 b0 f1 b1 f2 b2 f3 b3"


def test_zero_bubble_of_three_stages_and_four_micro_batches() -> None:
    assert text(0, 3, 4, "zero-bubble") == "f0 f1 f2 b0 w0 f3 b1 w1 b2 w2 b3 w3"
    assert text(1, 3, 4, "zero-bubble") == "f0 f1 b0 f2 b1 w0 f3 b2 w1 b3 w2 w3"
    assert text(2, 3, 4, "zero-bubble") == "f0 b0 f1 b1 f2 b2 w0 f3 b3 w1 w2 w3"


@given(st.integers(1, 8), st.integers(1, 20), st.data())
def test_the_trainers_list_is_the_simulated_one(
    num_stages: int, num_micro_batches: int, data: st.DataObject
) -> None:
    position = data.draw(st.integers(0, num_stages - 1))
    order = execution_order(tuple(range(num_stages)), num_micro_batches, "1f1b")
    own = [Action(KINDS[one.kind], one.micro_batch) for one in order if one.stage == position]
    assert list(one_forward_one_backward(position, num_stages, num_micro_batches)) == own
    warm_up = [action.kind for action in own].index("backward")
    assert warm_up == in_flight(position, num_stages, num_micro_batches)


@given(st.integers(1, 8), st.integers(1, 20), st.data())
def test_1f1b_keeps_fewer_the_nearer_to_the_end(
    num_stages: int, num_micro_batches: int, data: st.DataObject
) -> None:
    position = data.draw(st.integers(0, num_stages - 1))
    kept = in_flight(position, num_stages, num_micro_batches)
    assert kept == min(num_stages - position, num_micro_batches)


@given(st.integers(1, 8), st.integers(1, 30))
def test_zero_bubble_needs_no_more_than_the_fullest_stage_of_1f1b(
    num_stages: int, num_micro_batches: int
) -> None:
    devices = tuple(range(num_stages))
    most = in_flight(0, num_stages, num_micro_batches)
    assert in_flight_of(devices, num_micro_batches, "zero-bubble") == (most,) * num_stages


def megatron_order(
    rank: int, num_devices: int, turns: int, num_micro_batches: int
) -> list[tuple[str, int, int]]:
    """Megatron-LM's interleaved schedule as its `schedules.py` computes it, chunk by chunk."""
    total = num_micro_batches * turns

    def place(index: int) -> tuple[int, int]:
        group, rest = divmod(index, num_devices * turns)
        return rest // num_devices, group * num_devices + rest % num_devices

    def forward(index: int) -> tuple[str, int, int]:
        chunk, micro_batch = place(index)
        return "forward", chunk * num_devices + rank, micro_batch

    def backward(index: int) -> tuple[str, int, int]:
        chunk, micro_batch = place(index)
        return "backward", (turns - 1 - chunk) * num_devices + rank, micro_batch

    warm_up = min(2 * (num_devices - rank - 1) + (turns - 1) * num_devices, total)
    listed = [forward(index) for index in range(warm_up)]
    for index in range(total - warm_up):
        listed += [forward(warm_up + index), backward(index)]
    return listed + [backward(index) for index in range(total - warm_up, total)]


@pytest.mark.parametrize(("num_devices", "turns", "groups"), [(2, 2, 3), (4, 3, 2), (5, 2, 4)])
def test_the_interleaved_order_is_megatrons(num_devices: int, turns: int, groups: int) -> None:
    devices = turned(num_devices, turns)
    order = execution_order(devices, groups * num_devices, "interleaved")
    for rank in range(num_devices):
        own = [
            (KINDS[one.kind], one.stage, one.micro_batch)
            for one in order
            if devices[one.stage] == rank
        ]
        assert own == megatron_order(rank, num_devices, turns, groups * num_devices)


plans = st.one_of(
    st.tuples(device_lists(), st.just("interleaved")),
    st.tuples(
        st.integers(1, 7).map(lambda count: tuple(range(count))),
        st.sampled_from(["1f1b", "zero-bubble"]),
    ),
)


@given(plans, st.integers(1, 14))
def test_every_pass_once_and_behind_what_it_needs(
    plan: tuple[tuple[int, ...], Schedule], num_micro_batches: int
) -> None:
    devices, schedule = plan
    kinds = 3 if schedule == "zero-bubble" else 2
    done: set[tuple[int, int, int]] = set()
    for _, kind, stage, micro_batch in execution_order(devices, num_micro_batches, schedule):
        source = stage + (-1, 1, 0)[kind]
        if 0 <= source < len(devices) and kind < 2:
            assert (kind, source, micro_batch) in done
        if kind:
            assert (kind - 1, stage, micro_batch) in done
        done.add((kind, stage, micro_batch))
    assert len(done) == kinds * len(devices) * num_micro_batches


@given(plans, st.integers(1, 14))
def test_a_stage_takes_its_micro_batches_in_order(
    plan: tuple[tuple[int, ...], Schedule], num_micro_batches: int
) -> None:
    devices, schedule = plan
    order = execution_order(devices, num_micro_batches, schedule)
    for stage in range(len(devices)):
        for kind in range(3):
            own = [one.micro_batch for one in order if (one.kind, one.stage) == (kind, stage)]
            assert all(after == before + 1 for before, after in pairwise(own))


@given(plans, st.integers(1, 40), st.data())
def test_what_is_kept_is_counted(
    plan: tuple[tuple[int, ...], Schedule], num_micro_batches: int, data: st.DataObject
) -> None:
    devices, schedule = plan
    sizes = tuple(data.draw(st.floats(0.1, 1)) for _ in devices)
    frees = 2 if schedule == "zero-bubble" else 1
    kept, most = [set[int]() for _ in devices], dict.fromkeys(devices, 0.0)
    for _, kind, stage, micro_batch in execution_order(devices, num_micro_batches, schedule):
        if kind == 0:
            kept[stage].add(micro_batch)
        elif kind == frees:
            kept[stage].remove(micro_batch)
        device = devices[stage]
        most[device] = max(most[device], weighed(devices, device, sizes, map(len, kept)))
    found = in_flight_of(devices, num_micro_batches, schedule, sizes)
    for device, size in most.items():
        assert weighed(devices, device, sizes, found) == pytest.approx(size)


def weighed(
    devices: tuple[int, ...], device: int, sizes: tuple[float, ...], counts: Iterable[int]
) -> float:
    """What one device keeps."""
    held = zip(devices, sizes, counts, strict=True)
    return sum(size * count for holder, size, count in held if holder == device)


@pytest.mark.parametrize(("num_devices", "turns"), [(2, 2), (4, 3), (8, 4)])
def test_an_interleaved_device_keeps_what_megatrons_keeps(num_devices: int, turns: int) -> None:
    # The warm-up and one more: 1 + (p - 1)/(p v) times the layers of one device for the first one,
    # Korthikanti et al., arXiv 2205.05198, section 4.2.3.
    kept = in_flight_of(turned(num_devices, turns), 4 * num_devices, "interleaved")
    for rank in range(num_devices):
        warm_up = 2 * (num_devices - rank - 1) + (turns - 1) * num_devices
        assert sum(kept[rank::num_devices]) == warm_up + 1
