"""The native CPU kernels against float64, against plain PyTorch, and what is used without them.

Where they cannot be enabled (another CPU, no compiler) their tests are skipped with that reason.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from model_shapes import CONTEXT, SHAPES
from motley import kernels
from motley.chips.chip import Chip
from motley.chips.runtime import Runtime
from motley.kernels import native
from motley.kernels.cross_entropy import cross_entropy_
from motley.model.loss import cross_entropy_sum
from motley.model.transformer import Transformer, build_transformer
from test_stage import WHOLE, Pipeline, assert_same, batch, reference, run

HALF, DOUBLE = torch.bfloat16, torch.float64


@pytest.fixture(autouse=True)
def _small_work() -> Iterator[None]:
    """Small tensors are slower on many threads, by far so on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def _kernels() -> Iterator[None]:
    sentence = kernels.enable()
    if not kernels.usable(torch.empty(1, dtype=HALF)):
        pytest.skip(sentence)
    yield
    kernels.disable()


needs_kernels = pytest.mark.usefixtures("_kernels")


def halves(*shape: int) -> Tensor:
    return torch.randn(shape).to(HALF)


def error(result: Tensor, expected: Tensor) -> float:
    """The relative error by the L2 norm."""
    difference = torch.linalg.vector_norm(result.double() - expected.double())
    return float(difference / (torch.linalg.vector_norm(expected.double()) + 1e-30))


def results(
    function: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    grad: Tensor,
    dtype: torch.dtype | None = None,
) -> list[Tensor]:
    """The function's value and its inputs' gradients, with the inputs converted to `dtype`."""
    leaves = [x.detach().to(dtype or x.dtype).requires_grad_() for x in inputs]
    out = function(*leaves)
    torch.autograd.backward(out, grad.to(out.dtype))
    gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
    assert len(gradients) == len(leaves)
    return [out.detach(), *gradients]


def assert_as_exact_as_torch(
    own: Callable[..., Tensor],
    torchs: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    grad: Tensor,
) -> None:
    """The kernel is hardly further from float64 than PyTorch in bf16 is."""
    expected = results(torchs, inputs, grad, DOUBLE)
    plain = results(torchs, inputs, grad)
    found = results(own, inputs, grad)
    for result, other, exact in zip(found, plain, expected, strict=True):
        assert result.shape == exact.shape
        # 4e-3: one rounding to bf16; the floor is for what is zero but for rounding.
        floor = 1e-3 * exact.numel() ** 0.5 / (float(torch.linalg.vector_norm(exact)) + 1e-30)
        assert error(result, exact) < max(1.2 * error(other, exact), 4e-3, floor)


def torch_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


@needs_kernels
@pytest.mark.parametrize(
    ("heads", "kv_heads", "length", "size"),
    [
        (3, 3, 256, 64),
        (4, 2, 100, 64),
        (4, 1, 300, 80),
        (2, 2, 33, 32),
        (3, 3, 31, 20),
        (2, 1, 1, 64),
    ],
)
def test_attention(heads: int, kv_heads: int, length: int, size: int) -> None:
    inputs = [halves(2, number, length, size) for number in (heads, kv_heads, kv_heads)]
    grad = halves(2, heads, length, size)
    assert_as_exact_as_torch(kernels.causal_attention, torch_attention, inputs, grad)


@needs_kernels
def test_attention_takes_strided_heads_and_expanded_gradients() -> None:
    parts = halves(2, 40, 3, 4, 32).permute(2, 0, 3, 1, 4)
    grad = torch.ones((), dtype=HALF).expand(2, 4, 40, 32)
    found = results(kernels.causal_attention, [*parts], grad)
    expected = results(torch_attention, [*parts], grad, DOUBLE)
    assert error(found[0], expected[0]) < 4e-3
    assert error(found[3], expected[3]) < 4e-3


@needs_kernels
@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 6), (4, 2)])
def test_packed_attention_equals_that_of_separate_heads(heads: int, kv_heads: int) -> None:
    samples, length, size = 2, 70, 64
    packed = halves(samples, length, (heads + 2 * kv_heads) * size)
    grad = halves(samples, length, heads * size)

    def separate(x: Tensor) -> Tensor:
        all_heads = x.view(samples, length, -1, size).transpose(1, 2)
        parts = torch.split(all_heads, [heads, kv_heads, kv_heads], 1)
        return kernels.causal_attention(*parts).transpose(1, 2).flatten(2)

    def joined(x: Tensor) -> Tensor:
        return kernels.causal_attention_packed(x, heads, kv_heads)

    pairs = zip(results(joined, [packed], grad), results(separate, [packed], grad), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@needs_kernels
def test_attention_does_not_see_the_future() -> None:
    q, k, v = (halves(1, 2, 80, 64) for _ in range(3))
    first = kernels.causal_attention(q, k, v)[:, :, :50]
    k[:, :, 50:], v[:, :, 50:] = 9.0, 1e4
    assert torch.equal(first, kernels.causal_attention(q, k, v)[:, :, :50])


@needs_kernels
def test_attention_with_large_scores_stays_finite_and_right() -> None:
    q, k, v = 60 * halves(1, 2, 64, 64), 60 * halves(1, 2, 64, 64), halves(1, 2, 64, 64)
    found = results(kernels.causal_attention, (q, k, v), halves(1, 2, 64, 64))
    assert all(torch.isfinite(result).all() for result in found)
    assert error(found[0], torch_attention(q.double(), k.double(), v.double())) < 4e-3


@needs_kernels
def test_attention_of_shapes_that_the_kernel_cannot_take_is_torchs() -> None:
    q, k, v = halves(1, 2, 8, 32), halves(1, 2, 8, 32), halves(1, 2, 8, 16)
    assert torch.equal(kernels.causal_attention(q, k, v), torch_attention(q, k, v))
    with pytest.raises(RuntimeError):
        kernels.causal_attention(halves(1, 3, 8, 32), k, k)


@needs_kernels
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"), [(300, 64, 96), (70, 50, 90), (1, 8, 8), (600, 200, 33)]
)
def test_linear(rows: int, inputs: int, outputs: int, bias: bool) -> None:
    parameters = [halves(outputs, inputs), *([halves(outputs)] if bias else [])]
    leaves, grad = [halves(2, rows, inputs), *parameters], halves(2, rows, outputs)
    assert_as_exact_as_torch(kernels.linear, functional.linear, leaves, grad)


@needs_kernels
@pytest.mark.parametrize("bias", [True, False])
def test_joined_linear_layers_are_the_separate_ones_side_by_side(bias: bool) -> None:
    widths, x = (48, 16, 10), halves(2, 65, 30)
    weights = [halves(width, 30) for width in widths]
    biases = [halves(width) for width in widths] if bias else []

    def own(x: Tensor, *parameters: Tensor) -> Tensor:
        return kernels.linear_joined(x, parameters[:3], parameters[3:] or [None] * 3)

    def torchs(x: Tensor, *parameters: Tensor) -> Tensor:
        offsets = parameters[3:] or [None] * 3
        pairs = zip(parameters[:3], offsets, strict=True)
        return torch.cat([functional.linear(x, *pair) for pair in pairs], dim=-1)

    assert_as_exact_as_torch(own, torchs, [x, *weights, *biases], halves(2, 65, sum(widths)))


@needs_kernels
def test_a_gradient_sum_is_added_to_in_fp32_and_autograd_gets_nothing() -> None:
    x, grad = halves(400, 40), halves(400, 24)
    weight, bias = nn.Parameter(halves(24, 40)), nn.Parameter(halves(24))
    start = torch.randn(24, 40), torch.randn(24)
    sums = [each.clone() for each in start]
    weight.gradient_sum, bias.gradient_sum = sums  # type: ignore[attr-defined]
    for _ in range(2):
        torch.autograd.backward(kernels.linear(x, weight, bias), grad)
    assert weight.grad is None
    assert bias.grad is None
    wide = grad.double()
    # Far below what one rounding to bf16 would leave.
    assert error(sums[0], start[0] + 2 * wide.T @ x.double()) < 1e-5
    assert error(sums[1], start[1] + 2 * wide.sum(0)) < 1e-5


@needs_kernels
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("outputs", "inputs"), [(64, 96), (96, 64), (33, 7)])
def test_weight_gradient_adds_to_what_is_given(threads: int, outputs: int, inputs: int) -> None:
    torch.set_num_threads(threads)
    grad, x, start = halves(700, outputs + 3)[:, 3:], halves(700, inputs), torch.randn(1)
    expected = grad.double().T @ x.double()
    fresh, sums = kernels.weight_gradient(grad, x, bias=True)
    assert error(fresh, expected) < 1e-5
    assert sums is not None
    assert error(sums, grad.double().sum(0)) < 1e-5
    total = start.expand(outputs, inputs).clone()
    assert kernels.weight_gradient(grad, x, bias=False, out=total) == (total, None)
    assert error(total, start + expected) < 1e-5


@needs_kernels
def test_gelu() -> None:
    ends = torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4])
    x = torch.cat([torch.linspace(-12, 12, 5001), ends]).to(HALF)

    def torchs(x: Tensor) -> Tensor:
        return functional.gelu(x, approximate="tanh")

    grad = torch.ones_like(x)
    expected = results(torchs, [x], grad, DOUBLE)
    for result, exact in zip(results(kernels.gelu, [x], grad), expected, strict=True):
        torch.testing.assert_close(result.double(), exact, rtol=5e-3, atol=1e-6)


@needs_kernels
@pytest.mark.parametrize("width", [384, 50])
@pytest.mark.parametrize("parameter_dtype", [torch.float32, HALF])
def test_layer_norm(width: int, parameter_dtype: torch.dtype) -> None:
    weight, bias = (halves(width).to(parameter_dtype) for _ in range(2))
    x, grad = halves(3, 40, width) + 1, halves(3, 40, width)

    def own(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return kernels.layer_norm(x, weight, bias, 1e-5)

    def torchs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.layer_norm(x, (width,), weight.to(x.dtype), bias.to(x.dtype), 1e-5)

    assert_as_exact_as_torch(own, torchs, [x, weight, bias], grad)


@needs_kernels
@pytest.mark.parametrize("used", ["both", "stream", "norm"])
def test_add_norm(used: str) -> None:
    """Also where only one of its two results is used."""
    width = 50
    inputs = [halves(3, 40, width) + 1, halves(3, 40, width), halves(width), halves(width)]

    def chosen(stream: Tensor, normed: Tensor) -> Tensor:
        return {"both": torch.cat([stream, normed]), "stream": stream, "norm": normed}[used]

    def own(stream: Tensor, update: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return chosen(*kernels.add_norm(stream, update, weight, bias, 1e-5))

    def torchs(stream: Tensor, update: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        total = stream + update
        nothing = 0 * (weight + bias)  # a gradient of zero where the norm is not used
        return chosen(total + nothing, functional.layer_norm(total, (width,), weight, bias, 1e-5))

    grad = halves(6 if used == "both" else 3, 40, width)
    if used == "stream":
        own_inputs = [each.requires_grad_() for each in inputs]
        torch.autograd.backward(own(*own_inputs), grad)
        assert [each.grad is None for each in own_inputs] == [False, False, True, True]
        assert all(torch.equal(each.grad, grad) for each in own_inputs[:2] if each.grad is not None)
        return
    assert_as_exact_as_torch(own, torchs, inputs, grad)


@needs_kernels
@pytest.mark.parametrize(("rows", "classes"), [(300, 500), (7, 33)])
def test_cross_entropy_and_its_gradient_in_place(rows: int, classes: int) -> None:
    logits, targets = 3 * halves(rows, classes), torch.randint(classes, (rows,))
    targets[::3] = -100
    targets[1], targets[2] = 0, classes - 1
    leaf = logits.double().requires_grad_()
    expected = functional.cross_entropy(leaf, targets, ignore_index=-100, reduction="none")
    torch.autograd.backward(expected.sum())
    losses = cross_entropy_(logits, targets)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses.double(), expected.detach(), rtol=1e-4, atol=1e-4)
    assert leaf.grad is not None
    assert error(logits, leaf.grad) < 4e-3
    assert not logits[::3].any()


@needs_kernels
def test_a_target_outside_the_vocabulary_is_refused() -> None:
    targets = torch.tensor([0, 9, -100])
    with pytest.raises(IndexError, match="target 9: there are 9 classes"):
        cross_entropy_(halves(3, 9), targets)
    with pytest.raises(IndexError, match="target 9"):
        cross_entropy_sum(halves(3, 8), halves(9, 8), targets)
    assert cross_entropy_(halves(0, 9), targets[:0]).shape == (0,)


@needs_kernels
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_does_not_vanish(bad: float) -> None:
    """Else a diverged training would go on with a loss that looks sound."""
    logits = halves(3, 40)
    logits[1, 5] = bad
    assert cross_entropy_(logits, torch.tensor([5, 0, 1])).isfinite().tolist() == [
        True,
        False,
        True,
    ]
    assert not logits[1].isfinite().any()
    for place in range(3):
        parts = [halves(1, 1, 48, 64) for _ in range(3)]
        parts[place][0, 0, 7] = bad
        assert not kernels.causal_attention(*parts)[0, 0, 7].isfinite().all()
    x = halves(1, 64)
    x[0, 3] = bad
    assert not kernels.gelu(x).isfinite().all()
    assert not kernels.layer_norm(x, torch.ones(64), torch.zeros(64), 1e-5).isfinite().any()


@needs_kernels
def test_the_heads_loss_in_chunks() -> None:
    hidden, matrix, targets = halves(70, 24), halves(41, 24), torch.randint(41, (70,))
    targets[::5] = -100

    def own(hidden: Tensor, matrix: Tensor) -> Tensor:
        return cross_entropy_sum(hidden, matrix, targets, chunk_tokens=32)

    def torchs(hidden: Tensor, matrix: Tensor) -> Tensor:
        return functional.cross_entropy(hidden @ matrix.T, targets, reduction="sum")

    found = results(own, [hidden, matrix], torch.tensor(0.5))
    expected = results(torchs, [hidden, matrix], torch.tensor(0.5), DOUBLE)
    assert float(found[0]) == pytest.approx(float(expected[0]), rel=2e-3)
    assert max(error(*pair) for pair in zip(found[1:], expected[1:], strict=True)) < 8e-3


def model_results(
    model: Transformer, tokens: Tensor, targets: Tensor
) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    loss = model.loss(tokens, targets)
    torch.autograd.backward(loss)
    gradients = {
        name: each.grad.float().clone()
        for name, each in model.named().items()
        if each.grad is not None
    }
    assert len(gradients) == len(model.named())
    return float(loss.detach()), gradients


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3"])
def test_a_whole_model_is_as_near_fp32_as_plain_bf16(name: str) -> None:
    tokens, targets = batch(0, samples=8)
    half = build_transformer(SHAPES[name], seed=1, dtype=HALF)
    wide = build_transformer(SHAPES[name], seed=1)
    wide.load_state({key: value.float() for key, value in half.state().items()})
    expected_loss, expected = model_results(wide, tokens, targets)
    plain_loss, plain = model_results(half, tokens, targets)
    sentence = kernels.enable()
    try:
        if not kernels.usable(torch.empty(1, dtype=HALF)):
            pytest.skip(sentence)
        loss, own = model_results(half, tokens, targets)
    finally:
        kernels.disable()
    assert loss == pytest.approx(expected_loss, rel=1e-3)
    assert loss == pytest.approx(plain_loss, rel=1e-3)
    assert_same(own, expected, relative=0.05)
    flat, plain_flat, exact = (
        torch.cat([each[key].flatten() for key in expected]) for each in (own, plain, expected)
    )
    assert error(flat, exact) < 1.2 * error(plain_flat, exact)


@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3"])
def test_a_stage_with_kernels_is_the_stage_without(name: str, recompute: bool) -> None:
    """Two micro-batches; the gradients that the kernels sum themselves are counted once."""
    chip = Chip(name="cpu", kind="test", device="cpu", precision="bf16",
                flops_per_s={"bf16": 1e12}, memory_bytes=2**34,
                memory_bandwidth_bytes_per_s=1e10)  # fmt: skip
    batches = [batch(0), batch(1)]

    def trained() -> tuple[float, dict[str, Tensor]]:
        pipeline = Pipeline(
            SHAPES[name], WHOLE, precision="bf16", recompute=recompute, runtime=Runtime(chip)
        )
        return run(pipeline, batches), pipeline.gradients()

    plain_loss, plain = trained()
    sentence = kernels.enable()
    try:
        if not kernels.usable(torch.empty(1, dtype=HALF)):
            pytest.skip(sentence)
        loss, own = trained()
    finally:
        kernels.disable()
    expected_loss, expected = reference(SHAPES[name], batches)
    assert loss == pytest.approx(plain_loss, rel=1e-3)
    assert loss == pytest.approx(expected_loss, rel=2e-3)
    assert_same(own, expected, relative=0.05)
    assert_same(own, plain, relative=0.05)


@needs_kernels
def test_results_repeat_to_the_bit() -> None:
    torch.set_num_threads(2)
    model = build_transformer(SHAPES["gpt2"], seed=1, dtype=HALF)
    tokens = torch.randint(101, (40, CONTEXT))
    first_loss, first = model_results(model, tokens, tokens)
    loss, again = model_results(model, tokens, tokens)
    assert loss == first_loss
    # The embedding's gradient is PyTorch's, and added up in any order.
    assert all(torch.equal(first[key], again[key]) for key in first if "blocks" in key)


@needs_kernels
def test_other_formats_and_tensors_stay_with_pytorch() -> None:
    assert not kernels.usable(torch.empty(1))
    assert not kernels.usable(torch.empty(1, dtype=HALF), torch.empty(1))
    assert not kernels.usable(torch.empty(1, dtype=HALF, device="meta"))
    x = torch.randn(2, 8, 16)
    assert torch.equal(kernels.gelu(x), functional.gelu(x, approximate="tanh"))


def test_without_kernels_each_operation_is_pytorchs() -> None:
    kernels.disable()
    x, weight, bias = halves(2, 8, 16), halves(48, 16), halves(48)
    scale, offset = halves(16), halves(16)
    projected = functional.linear(x, weight, bias)
    parts = torch.split(projected.view(2, 8, 6, 8).transpose(1, 2), 2, 1)
    mixed = torch_attention(*parts)
    normed = functional.layer_norm(x + x, (16,), scale, offset, 1e-5)
    pairs = [
        (kernels.linear(x, weight, bias), projected),
        (kernels.linear_joined(x, torch.split(weight, 16), torch.split(bias, 16)), projected),
        (kernels.causal_attention(*parts), mixed),
        (kernels.causal_attention_packed(projected, 2, 2), mixed.transpose(1, 2).flatten(2)),
        (kernels.gelu(x), functional.gelu(x, approximate="tanh")),
        (kernels.add_norm(x, x, scale, offset, 1e-5)[1], normed),
        (kernels.layer_norm(x + x, scale, offset, 1e-5), normed),
    ]
    for own, expected in pairs:
        torch.testing.assert_close(own, expected)


ENABLE = """
import torch
from motley import kernels
x = torch.ones(2, 4, 8, dtype=torch.bfloat16)
assert not kernels.usable(x), "they must be off until they are enabled"
sentence = kernels.enable()
print(sentence, flush=True)
assert kernels.usable(x) == sentence.startswith("Native CPU kernels are on")
assert kernels.linear(x, x[0, :, :]).shape == (2, 4, 4)
"""


def start_enabling(cache: Path, **environment: str) -> subprocess.Popen[str]:
    """A fresh process, which also shows that the kernels are off by default."""
    kept = {key: value for key, value in os.environ.items() if key != "CXX"}
    return subprocess.Popen(
        [sys.executable, "-c", ENABLE],
        env={**kept, "XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_without_a_compiler_it_says_so_and_pytorch_computes(tmp_path: Path) -> None:
    process = start_enabling(tmp_path, PATH="")
    sentence, fault = process.communicate()
    assert process.returncode == 0, fault
    assert sentence.startswith("Native CPU kernels are off, PyTorch's own are used: ")
    if not native._NEEDED_FLAGS - native._cpu_flags():
        assert "no C++ compiler (g++ or clang++) is installed." in sentence


@needs_kernels
def test_two_processes_that_compile_at_once_both_succeed(tmp_path: Path) -> None:
    processes = [start_enabling(tmp_path) for _ in range(2)]
    for process in processes:
        sentence, fault = process.communicate()
        assert process.returncode == 0, fault
        assert sentence.startswith("Native CPU kernels are on")
    (library,) = (tmp_path / "motley").iterdir()
    assert library.suffix == ".so"


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [("/bin/false", "/bin/false failed"), ("/nowhere/g++", "No such file")],
)
def test_a_compiler_that_does_not_work_is_a_reason(
    compiler: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels.disable()
    monkeypatch.setattr(native, "_cpu_flags", lambda: native._NEEDED_FLAGS)
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sentence = kernels.enable()
    assert "kernels are off" in sentence
    assert reason in sentence
    assert not kernels.usable(torch.empty(1, dtype=HALF))
    assert not list((tmp_path / "motley").iterdir())


def test_a_cpu_without_amx_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels.disable()
    monkeypatch.setattr(native, "_cpu_flags", lambda: native._NEEDED_FLAGS - {"amx_tile"})
    assert "the CPU lacks amx_tile" in kernels.enable()
