"""The chunked cross-entropy equals the plain one in float64, and never gives NaN."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from motley.model.loss import IGNORED, cross_entropy_sum, soft_cap

WIDTH = 12


def example(num_tokens: int, vocabulary: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num_tokens, WIDTH, generator=generator, dtype=torch.float64)
    matrix = torch.randn(vocabulary, WIDTH, generator=generator, dtype=torch.float64)
    targets = torch.randint(vocabulary, (num_tokens,), generator=generator)
    ignored = torch.rand(num_tokens, generator=generator) < 0.3
    return hidden, matrix, targets.masked_fill(ignored, IGNORED)


def losses_and_gradients(
    hidden: Tensor,
    matrix: Tensor,
    targets: Tensor,
    chunk_tokens: int | None,
    scale: float,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the chunked loss, or with `chunk_tokens` None of torch's plain one."""
    hidden, matrix = hidden.clone().requires_grad_(), matrix.clone().requires_grad_()
    if chunk_tokens is None:
        logits = functional.linear(hidden, matrix)
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        loss = functional.cross_entropy(logits, targets, reduction="sum")
    else:
        loss = cross_entropy_sum(
            hidden, matrix, targets, softcap=softcap, chunk_tokens=chunk_tokens
        )
    (loss * scale).backward()
    assert hidden.grad is not None
    assert matrix.grad is not None
    return loss.detach(), hidden.grad, matrix.grad


@settings(max_examples=40, deadline=None)
@given(
    num_tokens=st.integers(1, 40),
    vocabulary=st.integers(2, 60),
    chunk_tokens=st.integers(1, 50),
    softcap=st.sampled_from([None, 1.5, 30.0, 90.0]),
    seed=st.integers(0, 1000),
)
def test_equals_the_plain_loss(
    num_tokens: int, vocabulary: int, chunk_tokens: int, softcap: float | None, seed: int
) -> None:
    inputs = example(num_tokens, vocabulary, seed)
    expected = losses_and_gradients(*inputs, None, 0.25, softcap)
    found = losses_and_gradients(*inputs, chunk_tokens, 0.25, softcap)
    for ours, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)]
)
def test_low_precision_is_near_float64(
    dtype: torch.dtype, tolerance: float, softcap: float | None
) -> None:
    hidden, matrix, targets = example(300, 50, 0)
    hidden, matrix = hidden.to(dtype), (matrix * 0.1).to(dtype)
    expected = losses_and_gradients(hidden.double(), matrix.double(), targets, None, 1.0, softcap)
    found = losses_and_gradients(hidden, matrix, targets, 64, 1.0, softcap)
    assert found[0].dtype == torch.float32
    assert found[1].dtype == found[2].dtype == dtype
    for ours, reference in zip(found, expected, strict=True):
        error = (ours.double() - reference).norm() / reference.norm()
        assert error.item() < tolerance


def test_gradient_rows_are_summed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, matrix, targets = (
        t.bfloat16() if t.is_floating_point() else t for t in example(9, 50, 1)
    )
    whole = losses_and_gradients(hidden, matrix, targets, 4, 1.0)
    monkeypatch.setattr("motley.model.loss.SUM_ROWS", 7)
    pieces = losses_and_gradients(hidden, matrix, targets, 4, 1.0)
    torch.testing.assert_close(pieces[2], whole[2])


def test_all_ignored_gives_zero() -> None:
    hidden, matrix, targets = example(10, 30, 0)
    found = losses_and_gradients(hidden, matrix, torch.full_like(targets, IGNORED), 4, 1.0)
    for tensor in found:
        assert torch.equal(tensor, torch.zeros_like(tensor))


def test_large_logits_do_not_overflow() -> None:
    hidden, matrix, targets = example(10, 30, 0)
    inputs = (hidden.float() * 1e4, matrix.float(), targets)
    expected = losses_and_gradients(
        *(t.double() if t.is_floating_point() else t for t in inputs), None, 1.0
    )
    loss, *gradients = losses_and_gradients(*inputs, 4, 1.0)
    assert loss.item() == pytest.approx(expected[0].item(), rel=1e-5)
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_without_gradients_only_the_loss_is_computed(softcap: float | None) -> None:
    hidden, matrix, targets = example(10, 30, 0)
    expected = losses_and_gradients(hidden, matrix, targets, None, 1.0, softcap)[0]
    matrix.requires_grad_()
    with torch.no_grad():
        loss = cross_entropy_sum(hidden, matrix, targets, softcap=softcap, chunk_tokens=3)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, expected)


def test_frozen_inputs_get_no_gradient() -> None:
    hidden, matrix, targets = example(10, 30, 0)
    expected = losses_and_gradients(hidden, matrix, targets, None, 1.0)
    hidden.requires_grad_()
    cross_entropy_sum(hidden, matrix, targets, chunk_tokens=3).backward()
    torch.testing.assert_close(hidden.grad, expected[1])
    assert matrix.grad is None


def test_the_backward_pass_runs_once() -> None:
    hidden, matrix, targets = example(4, 9, 0)
    loss = cross_entropy_sum(hidden, matrix.requires_grad_(), targets)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="only once"):
        loss.backward()


def test_the_cap_bounds_logits_and_leaves_small_ones() -> None:
    logits = torch.tensor([-1e9, -0.01, 0.0, 0.01, 1e9])
    assert soft_cap(logits, 5.0).tolist() == pytest.approx([-5.0, -0.01, 0.0, 0.01, 5.0], rel=1e-4)
    assert soft_cap(logits, None) is logits
