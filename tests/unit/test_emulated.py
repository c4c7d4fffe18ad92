"""The emulated chip keeps to its declared figures, whatever the host does.

Only the order of clocks is asserted, never how long anything took.
"""

from __future__ import annotations

import dataclasses
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from motley.chips.chip import Chip, Link
from motley.chips.emulated import EmulatedEdge, EmulatedRuntime, open_chip
from motley.chips.runtime import Runtime
from motley.errors import ChipOutOfMemoryError

CHIP = Chip(
    name="weak-1",
    kind="test",
    emulated=True,
    flops_per_s={"fp32": 1e9, "bf16": 4e9},
    memory_bytes=1000,
    memory_bandwidth_bytes_per_s=1e8,
    source="emulated",
)
WORK = st.tuples(st.floats(min_value=0, max_value=1e5), st.floats(min_value=0, max_value=1e4))
"""FLOPs and bytes: at most 0.1 ms each."""


@settings(max_examples=40)
@given(st.lists(WORK, max_size=5), st.floats(min_value=0.5, max_value=1))
def test_the_clock_moves_on_by_exactly_the_declared_time(
    work: list[tuple[float, float]], efficiency: float
) -> None:
    runtime = EmulatedRuntime(dataclasses.replace(CHIP, training_efficiency=efficiency))
    expected = runtime.now()
    for flops, num_bytes in work:
        runtime.spend(flops, num_bytes)
        expected += max(flops / (1e9 * efficiency), num_bytes / 1e8)
        assert runtime.now() == expected


@settings(max_examples=40)
@given(st.lists(WORK, min_size=1, max_size=5))
def test_the_host_is_never_ahead_of_the_chip(work: list[tuple[float, float]]) -> None:
    """Whoever sees the work done sees it no earlier than the chip would have done it."""
    runtime = EmulatedRuntime(CHIP)
    for flops, num_bytes in work:
        runtime.spend(flops, num_bytes)
        assert time.monotonic() >= runtime.now()


def test_a_slow_host_does_not_change_the_chips_time() -> None:
    """A host that takes longer than the chip would is seen as lag, not as work."""
    runtime = EmulatedRuntime(CHIP)
    runtime.align(time.monotonic() - 5.0)
    before = runtime.now()
    runtime.spend(1e6)
    assert runtime.now() == before + 1e-3
    assert runtime.lag_s >= 4.999


def test_the_rate_is_that_of_the_chips_precision() -> None:
    runtime = EmulatedRuntime(dataclasses.replace(CHIP, precision="bf16"))
    before = runtime.now()
    runtime.spend(4e5)
    assert runtime.now() == before + 4e5 / 4e9
    assert runtime.dtype == torch.bfloat16


def test_waiting_moves_the_clock_forwards_only() -> None:
    runtime = EmulatedRuntime(CHIP)
    moment = runtime.now() + 1e-3
    runtime.wait_until(moment)
    assert runtime.now() == moment
    assert time.monotonic() >= moment
    runtime.wait_until(moment - 1.0)
    assert runtime.now() == moment


def test_align_sets_the_clock_and_forgets_the_lag() -> None:
    runtime = EmulatedRuntime(CHIP)
    runtime.align(time.monotonic() - 1.0)
    runtime.spend(0.0)
    assert runtime.lag_s >= 1.0
    runtime.align(123.0)
    assert runtime.now() == 123.0
    assert runtime.lag_s == 0.0


def test_a_mark_is_the_chips_clock() -> None:
    runtime = EmulatedRuntime(CHIP)
    first = runtime.mark()
    runtime.spend(1e5)
    assert runtime.seconds_between(first, runtime.mark()) == pytest.approx(1e-4, rel=1e-6)


def test_more_memory_than_declared_is_refused_with_the_chips_name() -> None:
    runtime = EmulatedRuntime(CHIP)
    runtime.hold(600)
    runtime.hold(400)
    with pytest.raises(ChipOutOfMemoryError, match="chip 'weak-1' is out of memory: 1001 B") as e:
        runtime.hold(1)
    assert e.value.chip == "weak-1"
    assert e.value.remedy


@given(st.lists(st.integers(min_value=1, max_value=100), min_size=1, max_size=10))
def test_the_peak_is_the_most_that_was_held_at_once(sizes: list[int]) -> None:
    runtime = EmulatedRuntime(CHIP)
    for num_bytes in sizes:
        runtime.hold(num_bytes)
        runtime.release(num_bytes)
    assert runtime.peak_memory_bytes() == max(sizes)
    for num_bytes in sizes:
        runtime.hold(num_bytes)
    assert runtime.peak_memory_bytes() == sum(sizes)


def test_saving_counts_each_storage_once_and_no_parameter() -> None:
    runtime = EmulatedRuntime(dataclasses.replace(CHIP, memory_bytes=10**6))
    weight = torch.ones(8, 8, requires_grad=True)
    runtime.exclude([weight])
    layer_input = torch.ones(4, 8, requires_grad=True)
    with runtime.saving([layer_input], []) as saved:
        hidden = layer_input @ weight  # keeps its input and the weight
        output = (hidden * hidden).exp()  # keeps `hidden` (twice) and its own output
    assert saved.num_bytes == 3 * 4 * 8 * 4
    assert runtime.peak_memory_bytes() == saved.num_bytes
    torch.autograd.backward(output.sum())


def test_saving_more_than_the_chip_has_is_refused() -> None:
    runtime = EmulatedRuntime(CHIP)
    layer_input = torch.ones(16, 8, requires_grad=True)
    with pytest.raises(ChipOutOfMemoryError), runtime.saving([layer_input], []):
        layer_input.exp()


EDGES = st.builds(
    Link,
    bandwidth_bytes_per_s=st.floats(min_value=1, max_value=1e12),
    latency_s=st.floats(min_value=0, max_value=10),
    emulated=st.just(True),
)
MESSAGES = st.lists(
    st.tuples(st.floats(min_value=0, max_value=100), st.integers(min_value=0, max_value=10**9)),
    min_size=1,
    max_size=20,
)


@given(EDGES, MESSAGES)
def test_messages_arrive_in_order_and_never_faster_than_the_link(
    link: Link, messages: list[tuple[float, int]]
) -> None:
    edge, previous, total, ready = EmulatedEdge(link), 0.0, 0, 0.0
    first_ready = messages[0][0]
    for gap, num_bytes in messages:
        ready += gap
        arrival = edge.arrival(ready, num_bytes)
        total += num_bytes
        slack = 1e-9 * arrival
        assert arrival >= previous
        assert arrival >= ready + link.seconds(num_bytes) - slack
        assert arrival >= first_ready + link.seconds(total) - slack
        previous = arrival


@given(EDGES, st.floats(min_value=0, max_value=1e6), st.integers(min_value=0, max_value=10**9))
def test_an_idle_link_takes_its_own_time_only(link: Link, ready: float, num_bytes: int) -> None:
    expected = ready + num_bytes / link.bandwidth_bytes_per_s + link.latency_s
    assert EmulatedEdge(link).arrival(ready, num_bytes) == expected


def test_latency_does_not_keep_the_link_busy() -> None:
    """Two messages of 1 s each overlap their latency: 1 + 10 and 2 + 10, not 22."""
    edge = EmulatedEdge(Link(bandwidth_bytes_per_s=1.0, latency_s=10.0, emulated=True))
    assert [edge.arrival(0.0, 1), edge.arrival(0.0, 1)] == [11.0, 12.0]


def test_open_chip_takes_the_chips_word() -> None:
    assert isinstance(open_chip(CHIP), EmulatedRuntime)
    real = open_chip(dataclasses.replace(CHIP, emulated=False))
    assert type(real) is Runtime


def test_a_real_chip_is_not_held_to_anything() -> None:
    runtime = Runtime(dataclasses.replace(CHIP, emulated=False))
    runtime.spend(1e30)
    runtime.hold(10**12)
    runtime.wait_until(time.monotonic() + 1e6)
    assert runtime.now() <= time.monotonic()
    assert runtime.peak_memory_bytes() > 0


def test_an_emulated_accelerator_runs_on_the_host() -> None:
    runtime = open_chip(dataclasses.replace(CHIP, device="cuda:3"))
    assert runtime.device == torch.device("cpu")
