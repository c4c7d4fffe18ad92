"""Measuring the real CPU for moments: structure, signs and choices; never a speed."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from motley import kernels
from motley.chips import measure, training_block
from motley.chips.measure import measure_device, measure_matmul, time_windows
from motley.chips.training_block import BlockShape, training_step
from motley.errors import ProbeError

CPU = torch.device("cpu")
TINY = BlockShape(width=64, sequence_length=16, batch=1, num_blocks=1, head_size=32)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "CPU_SIZES", (64, 128))
    monkeypatch.setattr(measure, "CPU_COPY_BYTES", 2**20)
    monkeypatch.setattr(training_block, "CPU_SHAPE", TINY)


@pytest.mark.usefixtures("small")
def test_all_figures_of_the_cpu_are_there() -> None:
    lines: list[str] = []
    figures = measure_device(CPU, lines.append, seconds=0.3)
    assert figures.device == "cpu"
    assert figures.precision in figures.matmul
    assert "fp32" in figures.matmul
    assert not set(figures.matmul) & set(figures.unusable)
    for found in figures.matmul.values():
        assert found.size in (64, 128)
        assert 0 < found.rate.median <= found.rate.best
        assert found.rate.num_windows >= measure.MIN_WINDOWS
    assert figures.memory_bandwidth.median > 0
    assert figures.training_efficiency > 0
    assert 0 < figures.free_memory_bytes <= figures.total_memory_bytes
    assert figures.host_to_device is None
    assert figures.reason.startswith(figures.precision)
    assert any(figures.reason in line for line in lines)
    assert f"cpu: {figures.kernels}" in lines


@pytest.mark.usefixtures("small")
def test_the_cpu_trains_on_the_native_kernels_and_only_while_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []

    def enable() -> str:
        said.append("on")
        return "Kernels are on."

    monkeypatch.setattr(kernels, "enable", enable)
    monkeypatch.setattr(kernels, "disable", lambda: said.append("off"))

    def step(*_: object) -> object:
        said.append("step")
        return lambda: None

    monkeypatch.setattr(training_block, "training_step", step)
    figures = measure_device(CPU, lambda line: None, seconds=0.1)
    assert said == ["on", "step", "off"]
    assert figures.kernels == "Kernels are on."


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_block_adds_up_its_gradients_in_fp32(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums: list[torch.Tensor] = []
    real = training_block._fp32_sum

    def noted(weight: torch.nn.Parameter) -> torch.Tensor:
        sums.append(real(weight))
        return sums[-1]

    monkeypatch.setattr(training_block, "_fp32_sum", noted)
    torch.manual_seed(0)
    step = training_step(TINY, CPU, dtype)
    step()
    once = [total.clone() for total in sums]
    step()
    for first, total in zip(once, sums, strict=True):
        assert total.dtype == torch.float32
        assert first.any()
        torch.testing.assert_close(total, 2 * first)


@pytest.mark.usefixtures("small")
def test_a_dtype_with_wrong_products_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    real = measure._fault
    monkeypatch.setattr(
        measure,
        "_fault",
        lambda device, dtype: (
            "its products are wrong" if dtype == torch.bfloat16 else real(device, dtype)
        ),
    )
    lines: list[str] = []
    figures = measure_device(CPU, lines.append, seconds=0.1)
    assert "bf16" not in figures.matmul
    assert figures.unusable["bf16"] == "its products are wrong"
    assert "cpu: no bf16: its products are wrong" in lines


@pytest.mark.usefixtures("small")
def test_a_dtype_in_which_training_fails_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(shape: BlockShape, device: torch.device, dtype: torch.dtype) -> object:
        if dtype != torch.float32:
            raise RuntimeError("not implemented for 'Half'")
        return training_step(shape, device, dtype)

    monkeypatch.setattr(training_block, "training_step", step)
    figures = measure_device(CPU, lambda line: None, seconds=0.1)
    assert figures.precision == "fp32"

    def broken(*_: object) -> object:
        raise RuntimeError("broken driver")

    monkeypatch.setattr(training_block, "training_step", broken)
    with pytest.raises(ProbeError, match="broken driver"):
        measure_device(CPU, lambda line: None, seconds=0.1)


def test_windows_last_as_asked_and_are_enough() -> None:
    calls = []
    windows = time_windows(lambda: calls.append(1), lambda: None, 0.0)
    assert len(windows) == measure.MIN_WINDOWS
    assert all(seconds > 0 for seconds in windows)
    assert len(calls) >= measure.MIN_WINDOWS + 2


class _ProductCounter(TorchDispatchMode):
    """Adds up the FLOPs of all matrix products but the fused attention's."""

    flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func.overloadpacket)
        if count is not None and "attention" not in str(func):
            self.flops += count(*args, **(kwargs or {}), out_val=out)
        return out


def test_flops_of_the_block_are_those_that_torch_counts() -> None:
    step = training_step(TINY, CPU, torch.float32)
    with _ProductCounter() as counter:
        step()
    length, width = TINY.sequence_length, TINY.width
    attention = 3 * 2.0 * width * length * (length + 1) * TINY.batch * TINY.num_blocks
    assert TINY.flops - attention == counter.flops


def test_fp8_is_not_measured_and_says_so() -> None:
    with pytest.raises(ProbeError, match="fp8 matmuls are not measured"):
        measure_matmul(torch.device("cpu"), "fp8", 2**30, 0.01)
