"""Sampled softmax: equal to the exact loss when all are sampled, unbiased when some are."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from model_shapes import CONTEXT, SHAPES
from motley.chips.chip import Chip
from motley.chips.runtime import TORCH_DTYPES, Runtime
from motley.model.config import ModelConfig
from motley.model.counts import layer_counts
from motley.model.init import initialize
from motley.model.layers import Head, build_layer
from motley.model.loss import cross_entropy_sum
from motley.model.sampled_loss import Negatives, negatives_of, sampled_cross_entropy_sum
from motley.model.target_sample import TargetSample, draw_targets
from motley.train.parameters import build_parameters
from motley.units import Precision
from test_model_counts import allocated_peak

VOCABULARY = 60
COUNTS = np.array([10_000 // (rank + 1) ** 2 for rank in range(VOCABULARY)], dtype=np.int64)


def inputs(seed: int = 0, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(40, 16, generator=generator) * scale
    matrix = torch.randn(VOCABULARY, 16, generator=generator)
    targets = torch.randint(VOCABULARY, (40,), generator=generator)
    targets[:3] = -100
    return hidden, matrix, targets


def negatives(sample: TargetSample) -> Negatives:
    return negatives_of(sample, VOCABULARY, torch.device("cpu"))


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("chunk_tokens", [7, 512])
def test_all_sampled_is_the_exact_loss(softcap: float | None, chunk_tokens: int) -> None:
    hidden, matrix, targets = inputs()
    sample = negatives(draw_targets(COUNTS, VOCABULARY, seed=0, step=0))
    results = []
    for sampled in (True, False):
        leaves = [each.clone().requires_grad_() for each in (hidden, matrix)]
        if sampled:
            loss = sampled_cross_entropy_sum(
                *leaves, targets, sample, softcap=softcap, chunk_tokens=chunk_tokens
            )
        else:
            loss = cross_entropy_sum(*leaves, targets, softcap=softcap)
        torch.autograd.backward(loss * 0.5)
        results.append((loss.detach(), [leaf.grad for leaf in leaves]))
    (own, (own_hidden, own_matrix)), (loss, (by_hidden, by_matrix)) = results
    torch.testing.assert_close(own, loss)
    torch.testing.assert_close(own_hidden, by_hidden)
    assert own_matrix is not None
    assert own_matrix.is_sparse
    torch.testing.assert_close(own_matrix.to_dense(), by_matrix, rtol=1e-4, atol=1e-5)


def test_only_rows_of_sampled_tokens_and_targets_have_a_gradient() -> None:
    hidden, matrix, targets = inputs()
    matrix.requires_grad_()
    sample = draw_targets(COUNTS, 12, seed=3, step=5)
    torch.autograd.backward(sampled_cross_entropy_sum(hidden, matrix, targets, negatives(sample)))
    assert matrix.grad is not None
    touched = set(matrix.grad.coalesce().indices()[0].tolist())
    assert touched == {*sample.tokens_m.tolist(), *targets[3:].tolist(), 0}


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 10**6), min_size=2, max_size=80),
    data=st.data(),
    seed=st.integers(0, 2**63),
    step=st.integers(0, 10**9),
)
def test_a_draw_has_its_size_and_its_weights(
    counts: list[int], data: st.DataObject, seed: int, step: int
) -> None:
    size = data.draw(st.integers(1, len(counts)))
    array = np.array(counts, dtype=np.int64)
    sample = draw_targets(array, size, seed, step)
    assert len(sample.tokens_m) == size
    assert (np.diff(sample.tokens_m) > 0).all(), "distinct and ascending"
    assert (sample.weights_m >= 1 - 1e-12).all()
    again = draw_targets(array, size, seed, step)
    assert (again.tokens_m == sample.tokens_m).all()


@pytest.mark.parametrize("size", [5, 20, 45])
def test_weights_are_one_over_the_probability_of_being_drawn(size: int) -> None:
    steps = 4000
    seen, weights = np.zeros(VOCABULARY), np.ones(VOCABULARY)
    for step in range(steps):
        sample = draw_targets(COUNTS, size, seed=1, step=step)
        seen[sample.tokens_m] += 1
        weights[sample.tokens_m] = sample.weights_m
    shares = 1 / weights
    drawn = seen > 0
    deviation = np.sqrt(shares * (1 - shares) / steps)
    assert (np.abs(seen / steps - shares)[drawn] <= 4.5 * deviation[drawn] + 1e-12).all()
    assert drawn.sum() > size


def test_the_sum_of_the_softmax_is_unbiased() -> None:
    """exp(loss) x exp(target's logit) is the estimate of the sum; its mean over steps is exact."""
    hidden, matrix, targets = inputs(seed=1, scale=0.3)
    token, row = int(targets[5]), slice(5, 6)
    logit = hidden[5].double() @ matrix[token].double()
    exact = (hidden[5].double() @ matrix.T.double()).exp().sum()
    estimates = []
    for step in range(3000):
        sample = negatives(draw_targets(COUNTS, 20, seed=2, step=step))
        loss = sampled_cross_entropy_sum(hidden[row], matrix, targets[row], sample)
        estimates.append(float((loss.double() + logit).exp()))
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert np.mean(estimates) == pytest.approx(float(exact), abs=4.5 * error)
    assert np.std(estimates) > 0


def sampling(name: str, tied: bool, size: int) -> ModelConfig:
    return dataclasses.replace(SHAPES[name], tied_head=tied, sampled_targets=size)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_stage_adds_the_sparse_gradient_to_its_dense_sum(
    tied: bool, precision: Precision
) -> None:
    """Two micro-batches, all targets sampled, against the exact loss on the same chip."""
    config = sampling("qwen3", tied, 101)
    chip = Chip(
        name="cpu", kind="cpu", device="cpu", precision=precision,
        flops_per_s={precision: 1e12}, memory_bytes=10**9, memory_bandwidth_bytes_per_s=1e10,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 3, CONTEXT, config.width, generator=generator)
    targets = torch.randint(101, (2, 3, CONTEXT), generator=generator)
    sums = []
    for is_sampled in (True, False):
        parameters = build_parameters(config, range(3, 4), Runtime(chip), seed=0)
        head = parameters.modules[3]
        assert isinstance(head, Head)
        if is_sampled:
            sample = draw_targets(np.ones(101, dtype=np.int64), 101, 0, 0)
            head.negatives = negatives_of(sample, 101, torch.device("cpu"))
        for each, own in zip(hidden, targets, strict=True):
            loss: Tensor = head(each.to(Runtime(chip).dtype), own)
            torch.autograd.backward(loss)
            parameters.collect(3)
        sums.append(parameters.gradients)
    for name, gradient in sums[0].items():
        scale = float(sums[1][name].abs().max())
        tolerance = 1e-5 if precision == "fp32" else 2e-2
        torch.testing.assert_close(gradient, sums[1][name], rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_memory_and_flops_of_a_sampled_head(precision: Precision) -> None:
    config = dataclasses.replace(
        sampling("frugal", False, 400), width=192, context=128, vocab_size=4000, head_width=48
    )
    layer, dtype = config.num_layers - 1, TORCH_DTYPES[precision]
    head = build_layer(config, layer, dtype=dtype)
    assert isinstance(head, Head)
    initialize(head, config, layer, 0)
    sample = draw_targets(np.ones(4000, dtype=np.int64), 400, 0, 0)
    head.negatives = negatives_of(sample, 4000, torch.device("cpu"))
    hidden = torch.randn(8, 128, 192).to(dtype).requires_grad_()
    targets = torch.randint(4000, (8, 128))
    counts = layer_counts(config, layer, 128, precision)
    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward(head(hidden, targets))
    assert counter.get_total_flops() == 8 * (counts.forward_flops + counts.backward_flops)
    for parameter in head.parameters():
        parameter.grad = torch.zeros_like(parameter)
    outputs: list[Tensor] = []
    peak_forward, kept = allocated_peak(lambda: outputs.append(head(hidden, targets)))
    peak_backward, _ = allocated_peak(lambda: torch.autograd.backward(outputs.pop()))
    predicted = counts.fixed_bytes + 8 * (counts.activation_bytes + counts.workspace_bytes)
    assert max(peak_forward, kept + peak_backward) <= predicted
