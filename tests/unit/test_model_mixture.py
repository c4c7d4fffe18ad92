"""Experts and the prediction of the token after the next, against plain code and over splits."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from model_shapes import OPT_IN
from motley.errors import RecipeError
from motley.model.config import ModelConfig
from motley.model.huggingface import config_to_huggingface
from motley.model.layers import Block, Head
from motley.model.mixture import Mixture
from motley.model.run import run_layer
from motley.model.stream import BALANCE, STREAM, TOKENS
from motley.model.transformer import Transformer, build_transformer
from motley.recipe import parse_recipe
from test_stage import Pipeline, assert_same, batch, reference, run

MIXTURE = {"experts": 2, "experts_per_token": 1, "expert_width": 4}


def noisy(config: ModelConfig, dtype: torch.dtype = torch.float64) -> Transformer:
    """A model whose scores are far apart."""
    model = build_transformer(config, seed=1, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.1 * noise)
    return model


def mixture_of(model: Transformer, layer: int) -> Mixture:
    block = model.layers[layer]
    assert isinstance(block, Block)
    assert isinstance(block.mlp, Mixture)
    return block.mlp


def plain_mixture(module: Mixture, x_bsw: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """Token by token, and the auxiliary loss of each sequence by its formula."""
    out, balance = torch.zeros_like(x_bsw), []
    num_experts = len(module.experts)
    for sample in range(x_bsw.shape[0]):
        counts, means = torch.zeros(num_experts), torch.zeros(num_experts)
        for position in range(x_bsw.shape[1]):
            x = x_bsw[sample, position]
            scores = (module.router.weight @ x).float().softmax(0)
            ranked = sorted(range(num_experts), key=lambda e: -float(scores[e].detach()))
            chosen = ranked[: module.chosen]
            total = sum(scores[e] for e in chosen) if module.chosen > 1 else torch.tensor(1.0)
            result = sum((scores[e] / total).to(x) * module.experts[e](x) for e in chosen)
            if module.shared is not None and module.shared_router is not None:
                result = result + module.shared(x) * module.shared_router(x).sigmoid()
            out[sample, position] = result
            counts[chosen] += 1 / (module.chosen * x_bsw.shape[1])
            means = means + scores / x_bsw.shape[1]
        balance.append(weight * num_experts * (counts * means).sum())
    return out, torch.stack(balance)


@pytest.mark.parametrize("name", ["mixture", "shared expert"])
def test_experts_and_their_balance_are_those_of_plain_code(name: str) -> None:
    config = OPT_IN[name]
    assert config.mixture is not None
    module = mixture_of(noisy(config), 2)
    x = torch.randn(2, 9, config.width, dtype=torch.float64).requires_grad_()
    gradient = torch.randn(x.shape, dtype=torch.float64)
    results = []
    for function in (
        lambda: module(x),
        lambda: plain_mixture(module, x, config.mixture.balance_weight),
    ):
        out, balance = function()
        # One number per token: its sum over a sequence is length x loss.
        total = balance.sum() if balance.ndim == 3 else 9 * balance.sum()
        module.zero_grad()
        x.grad = None
        ((out * gradient).sum() + 3.0 * total).backward()
        grads = [
            torch.zeros_like(each) if each.grad is None else each.grad.clone()
            for each in (x, *module.parameters())
        ]
        results.append([out.detach(), total.detach(), *grads])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)


def test_alike_use_costs_the_weight_and_one_expert_alone_more() -> None:
    config = OPT_IN["mixture"]
    module = mixture_of(build_transformer(config, seed=0), 1)
    x = torch.randn(2, 7, config.width)
    with torch.no_grad():
        module.router.weight.zero_()
        _, balance = module(x)
        assert balance.flatten().tolist() == pytest.approx([0.01] * 14, rel=1e-4)
        module.router.weight[:2] = 100 * x.mean((0, 1))
        _, uneven = module(x.mean((0, 1), keepdim=True).expand_as(x))
    assert uneven.min() > 0.015


def test_the_loss_is_the_same_with_and_without_what_is_also_trained() -> None:
    config = OPT_IN["mixture"]
    assert config.mixture is not None
    off = dataclasses.replace(config.mixture, balance_weight=0.0)
    tokens, targets = batch()
    losses, gradients = [], []
    for each in (config, dataclasses.replace(config, mixture=off)):
        loss, own = reference(each, [(tokens, targets)])
        losses.append(loss)
        gradients.append(own["blocks.0.mlp.router.weight"])
    assert losses[0] == losses[1]
    assert not torch.allclose(gradients[0], gradients[1], rtol=1e-3)


def test_the_auxiliary_gradient_adds_to_that_of_the_loss() -> None:
    config = OPT_IN["mixture"]
    model = noisy(config)
    tokens, targets = batch()
    model.loss(tokens, targets).backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named().items()}
    model.zero_grad()
    pieces = {TOKENS: tokens}
    for layer, module in enumerate(list(model.layers)[:-1]):
        pieces |= run_layer(module, config, layer, pieces)
    logits = model.head.logits(pieces[STREAM]).flatten(0, 1)
    plain = functional.cross_entropy(logits, targets.flatten(), reduction="sum")
    (plain + pieces[BALANCE].sum()).backward()
    for name, parameter in model.named().items():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-5, atol=1e-7)


def test_lookahead_trains_on_the_token_after_the_next_and_is_not_in_the_loss() -> None:
    config = OPT_IN["lookahead"]
    model = noisy(config)
    head = model.layers[-1]
    assert isinstance(head, Head)
    tokens, targets = batch()
    loss = model.loss(tokens, targets)
    loss.backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named().items()}
    model.zero_grad()

    hidden = head.norm(model.hidden(tokens))
    further = torch.full_like(targets, -100)
    further[:, :-1] = targets[:, 1:]
    parts = []
    for state, wanted in ((hidden, targets), (hidden + hidden @ head.ahead.weight.T, further)):
        logits = 2.0 * torch.tanh(state @ head.matrix.T / 2.0)
        parts.append(
            functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="sum")
        )
    torch.testing.assert_close(loss, parts[0])
    (parts[0] + 0.3 * parts[1]).backward()
    for name, parameter in model.named().items():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-6, atol=1e-8)
    with torch.no_grad():
        torch.testing.assert_close(model.loss(tokens, targets), loss.detach())


@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize("cuts", [(0, 4), (0, 1, 2, 3, 4), (0, 2, 4)], ids=str)
@pytest.mark.parametrize("name", OPT_IN)
def test_any_split_trains_alike(name: str, cuts: Sequence[int], recompute: bool) -> None:
    """Samples of one batch apart in micro-batches, and layers apart in stages."""
    tokens, targets = batch(0, 4)
    whole = [(tokens, targets)]
    parts = [(tokens[:1], targets[:1]), (tokens[1:], targets[1:])]
    pipeline = Pipeline(OPT_IN[name], cuts, recompute=recompute)
    loss = run(pipeline, parts, 0.25)
    expected_loss, expected = reference(OPT_IN[name], whole, 0.25)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert_same(pipeline.gradients(), expected, relative=1e-5)


def test_sampling_takes_no_notice_of_what_is_also_trained() -> None:
    config = OPT_IN["lookahead"]
    plain = dataclasses.replace(config, lookahead_weight=None)
    tokens, _ = batch()
    model = build_transformer(config, seed=0)
    assert torch.equal(model.logits(tokens), build_transformer(plain, seed=0).logits(tokens))


@pytest.mark.parametrize("name", OPT_IN)
def test_no_hugging_face_model_has_them(name: str) -> None:
    with pytest.raises(RecipeError, match=r"model\.(mixture|lookahead_weight)"):
        config_to_huggingface(OPT_IN[name])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"lookahead_weight": 0.0}, "lookahead_weight: must be above zero"),
        ({"logit_softcap": -1.0}, "logit_softcap: must be above zero"),
        ({"mixture": {**MIXTURE, "balance_weight": -1}}, "balance_weight: must not be negative"),
    ],
)
def test_weights_out_of_range_are_refused(model: dict[str, Any], message: str) -> None:
    shape = {"layers": 1, "width": 8, "heads": 1, "context": 8, "vocab_size": 300}
    with pytest.raises(RecipeError, match=message):
        parse_recipe({"model": {**shape, **model}, "batch": {"sequence_length": 8}})


def test_off_keys_leave_no_trace_in_a_recipe() -> None:
    shape = {"layers": 1, "width": 8, "heads": 1, "context": 8, "vocab_size": 300}
    table = parse_recipe({"model": shape, "batch": {"sequence_length": 8}}).to_dict()["model"]
    new = ("zero_init", "input_residual", "value_residual", "logit_softcap", "lookahead_weight")
    assert not set(new) & set(table)
