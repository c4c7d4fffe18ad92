"""Defences: each attack gets its reason, honest updates none, and verdicts are the same in any
slabs. The model is the party's usual one: a common direction, and noise of its own."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from motley.federation.charter.terms import AggregateConfig, DefenceConfig
from motley.federation.codec import CodecConfig, CodecKind, build_codec
from motley.federation.codec.codec import Codec
from motley.federation.codec.payload import Payload
from motley.federation.state import similarity
from motley.federation.state.defences import (
    NOISE_SCORE,
    SURELY_COPIED,
    Review,
    find_copies,
    judge,
    krum_scores,
)
from motley.federation.state.gate import largest_rise, measure_rises
from motley.federation.state.similarity import agreement, cosines, sign_scores
from motley.model.config import ModelConfig
from motley.model.transformer import build_transformer
from motley.optim.optimizer import build_optimizer
from motley.recipe import OptimizerConfig
from test_federation_codec import KINDS, draw

SHAPES = {"a.weight": (120, 200), "b.bias": (77,)}
Named = dict[str, Tensor]
Attack = Callable[[list[Named]], Named]


def honest(count: int, *, seed: int = 0, own: float = 1.0) -> list[Named]:
    """A common direction plus noise of each party's own."""
    common = draw(SHAPES, seed)
    noise = [draw(SHAPES, 100 * seed + party + 1, 1e-3 * own) for party in range(count)]
    return [{name: common[name] + each[name] for name in SHAPES} for each in noise]


def codec_of(kind: CodecKind) -> Codec:
    return build_codec(CodecConfig(kind=kind, density=1 / 16))


def encoded(deltas: Sequence[Mapping[str, Tensor]], codec: Codec) -> list[Payload]:
    return [codec.encode(delta, None)[0] for delta in deltas]


def review(payloads: Sequence[Payload], codec: Codec, **changes: object) -> Review:
    arguments: dict[str, object] = {
        "codec": codec,
        "shapes": SHAPES,
        "aggregate": AggregateConfig(),
        "defences": DefenceConfig(),
    }
    return judge(payloads, **{**arguments, **changes})  # type: ignore[arg-type]


def scaled(factor: float) -> Attack:
    return lambda deltas: {name: tensor * factor for name, tensor in deltas[-1].items()}


def copied_with_noise(deltas: list[Named]) -> Named:
    noise = draw(SHAPES, 999, 3e-4)
    return {name: tensor * 1.5 + noise[name] for name, tensor in deltas[1].items()}


def noise_of_the_same_norm(deltas: list[Named]) -> Named:
    noise = draw(SHAPES, 998)
    norms = [
        math.sqrt(sum(float(tensor.square().sum()) for tensor in each.values()))
        for each in (deltas[-1], noise)
    ]
    return {name: tensor * (norms[0] / norms[1]) for name, tensor in noise.items()}


ATTACKS: dict[str, tuple[Attack, str]] = {
    "scaled": (scaled(1000.0), "outlier"),
    "idle": (scaled(1e-4), "outlier"),
    "flipped": (scaled(-1.0), "outlier"),
    "copied": (lambda deltas: deltas[2], "copied"),
    "disguised copy": (copied_with_noise, "copied"),
    "noise": (noise_of_the_same_norm, "noise"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attacker_is_named_and_nobody_else(kind: CodecKind, name: str) -> None:
    attack, reason = ATTACKS[name]
    deltas, codec = honest(5), codec_of(kind)
    verdict = review(encoded([*deltas[:4], attack(deltas)], codec), codec)
    assert verdict.reasons == ["", "", "", "", reason]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("own", [0.05, 1.0, 20.0])
def test_honest_updates_are_accepted(kind: CodecKind, count: int, own: float) -> None:
    """Nearly equal updates (the start of a training) and nearly unrelated ones alike."""
    codec = codec_of(kind)
    assert review(encoded(honest(count, own=own), codec), codec).reasons == [""] * count


@pytest.mark.parametrize("kind", KINDS)
def test_unreadable_payloads_are_named_and_do_not_disturb_the_rest(kind: CodecKind) -> None:
    codec = codec_of(kind)
    payloads = encoded(honest(4), codec)
    scale = {"fp32": "values", "topk": "magnitudes"}.get(kind, "steps")
    nan_bits = 0x7FC00000 if kind == "fp32" else 0x7FC0
    payloads[1] = {**payloads[1], scale: torch.full_like(payloads[1][scale], nan_bits)}
    payloads[3] = {}
    assert review(payloads, codec).reasons == ["", "nonfinite", "", "malformed"]


def test_an_update_of_a_round_before_is_a_copy() -> None:
    codec = codec_of("int8")
    earlier = encoded(honest(3, seed=1), codec)
    now = encoded(honest(3, seed=2), codec)
    assert review([*now, earlier[1]], codec, earlier=earlier).reasons == ["", "", "", "copied"]


def test_an_update_close_to_a_partys_own_last_one_is_no_copy() -> None:
    """Momentum carries over from round to round when few steps lie between."""
    alike = np.full((5, 5), 0.5)
    np.fill_diagonal(alike, 1.0)
    alike[0, 3] = alike[3, 0] = alike[1, 4] = alike[4, 1] = 0.95
    assert find_copies(alike, num_earlier=2) == {}
    alike[3, 4] = alike[4, 3] = 0.95
    assert find_copies(alike, num_earlier=2) == {4: 3}
    alike[0, 2] = alike[2, 0] = 0.9999
    assert find_copies(alike, num_earlier=2) == {2: 0, 4: 3}


def test_krum_leaves_out_the_one_that_stands_apart() -> None:
    codec, deltas = codec_of("int8"), honest(5)
    deltas[2] = draw(SHAPES, 77, 3e-3)
    krum = AggregateConfig(aggregate="krum", assumed_attackers=1)
    assert review(encoded(deltas, codec), codec, aggregate=krum).reasons == [
        "", "", "outlier", "", "",
    ]  # fmt: skip


def test_krum_scores_against_their_definition() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(6, 50))
    lengths = np.linalg.norm(vectors, axis=1)
    alike = (vectors @ vectors.T) / np.outer(lengths, lengths)
    scores = krum_scores(lengths.tolist(), alike, 1)
    for index, score in enumerate(scores):
        distances = sorted(((vectors - vectors[index]) ** 2).sum(1))[1:]
        assert score == pytest.approx(sum(distances[:3]))


@pytest.mark.parametrize("kind", KINDS)
def test_cosines_against_float64_and_in_any_blocks(
    kind: CodecKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = codec_of(kind)
    payloads = encoded(honest(4), codec)
    norms = [math.sqrt(codec.squared_norm(payload, SHAPES)) for payload in payloads]
    flat = [
        torch.cat([tensor.view(-1) for tensor in codec.decode(payload, SHAPES).values()]).double()
        for payload in payloads
    ]
    whole = cosines(payloads, norms, codec, SHAPES)
    for a in range(4):
        for b in range(4):
            expected = float(torch.nn.functional.cosine_similarity(flat[a], flat[b], dim=0))
            assert whole[a, b] == pytest.approx(expected, abs=2e-3)
        rest = sum(flat[b] / flat[b].norm() for b in range(4) if b != a)
        assert agreement(whole, a) == pytest.approx(
            float(flat[a] @ rest / flat[a].norm() / rest.norm()), abs=2e-3
        )
    monkeypatch.setattr(similarity, "_BLOCK_VALUES", 4096)
    assert (cosines(payloads, norms, codec, SHAPES) == whole).all()


@settings(max_examples=50, deadline=None)
@given(count=st.integers(1, 7), base=st.floats(-0.2, 0.9), seed=st.integers(0, 99))
def test_only_the_later_of_two_alike_is_a_copy(count: int, base: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    alike = np.full((count, count), base) + generator.normal(0, 0.01, (count, count))
    alike = np.clip((alike + alike.T) / 2, -1, 0.95)
    np.fill_diagonal(alike, 1.0)
    assert find_copies(alike) == {}
    if count > 1:
        first, last = sorted(generator.choice(count, 2, replace=False))
        alike[first, last] = alike[last, first] = 1.0
        assert find_copies(alike) == {last: first}


def test_the_gate_refuses_what_raises_the_loss() -> None:
    """The loss is the distance to a goal that the honest move towards."""
    codec, deltas = codec_of("int8"), honest(4)
    goal = draw(SHAPES, 0)
    parameters = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    deltas[2] = draw(SHAPES, 50, 1e-3)

    def loss_of(replaced: Mapping[str, Tensor]) -> float:
        state = {**parameters, **replaced}
        return sum(float((state[name] - goal[name]).square().sum()) for name in SHAPES)

    def gate(payloads: Sequence[Payload]) -> list[float]:
        return measure_rises(
            parameters, payloads, codec=codec, shapes=SHAPES, loss_of=loss_of, rate=0.5
        )

    defences = dataclasses.replace(DefenceConfig(), loss_gate=0.0, noise=False)
    verdict = review(encoded(deltas, codec), codec, defences=defences, gate=gate)
    assert verdict.reasons == ["", "", "loss_gate", ""]
    assert verdict.rises[2] > 0 > max(verdict.rises[0], verdict.rises[1], verdict.rises[3])
    open_ = dataclasses.replace(defences, loss_gate=None)
    assert review(encoded(deltas, codec), codec, defences=open_, gate=gate).reasons == [""] * 4


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_the_gate_measures_by_the_round_itself(scale: float) -> None:
    """No threshold in nats: the same round at any scale gives the same verdicts."""
    rises = [scale * each for each in (-0.010, -0.012, -0.009, 0.015, 0.050)]
    limit = largest_rise(rises, 2.0)
    assert [rise <= limit for rise in rises] == [True, True, True, True, False]


@given(
    middle=st.floats(-1, 1),
    spread=st.floats(1e-6, 1),
    shifts=st.lists(st.floats(-1, 1), min_size=3, max_size=9),
)
def test_the_gate_refuses_nobody_of_an_even_spread(
    middle: float, spread: float, shifts: list[float]
) -> None:
    """Values no further apart than twice their middle distance are within six deviations."""
    rises = [middle + spread * shift for shift in (*shifts, -1.0, 1.0, -0.5, 0.5, -0.7, 0.7)]
    limit = largest_rise(rises, 0.0)
    distances = sorted(abs(rise - sorted(rises)[(len(rises) - 1) // 2]) for rise in rises)
    if distances[(len(rises) - 1) // 2] * 8 > distances[-1]:
        assert all(rise <= limit + 1e-12 for rise in rises)


def test_of_two_nobody_tells_who_is_astray_unless_one_helps() -> None:
    assert largest_rise([0.001, 0.002], 2.0) == math.inf
    assert largest_rise([-0.01, 0.03], 2.0) == 0.02
    assert largest_rise([], 2.0) == math.inf


@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_noise_are_those_of_a_standard_normal(kind: CodecKind) -> None:
    codec = codec_of(kind)
    scores = []
    for seed in range(12):
        deltas = [*honest(3, seed=seed), noise_of_the_same_norm(honest(3, seed=seed + 50))]
        deltas[3] = {
            name: tensor * torch.sign(draw(SHAPES, 7000 + seed)[name])
            for name, tensor in deltas[3].items()
        }
        payloads = encoded(deltas, codec)
        norms = [math.sqrt(codec.squared_norm(payload, SHAPES)) for payload in payloads]
        found = sign_scores(payloads, norms, codec, SHAPES)
        assert min(found[:3]) > 2 * NOISE_SCORE
        scores.append(found[3])
    assert max(abs(score) for score in scores) < NOISE_SCORE
    assert 0.4 < float(np.std(scores)) < 1.8


def test_a_slow_party_with_few_tokens_may_have_moved_little() -> None:
    codec, deltas = codec_of("int8"), honest(5)
    deltas[4] = {name: tensor / 15 for name, tensor in deltas[4].items()}
    payloads = encoded(deltas, codec)
    tokens = [6400, 6400, 6400, 6400, 400]
    assert review(payloads, codec, tokens=tokens).reasons == [""] * 5
    assert review(payloads, codec, tokens=[6400] * 5).reasons[4] == "outlier"


def test_beside_a_party_that_stopped_early_the_other_is_no_outlier() -> None:
    codec, deltas = codec_of("int8"), honest(2)
    deltas[0] = {name: tensor / 20 for name, tensor in deltas[0].items()}
    payloads = encoded(deltas, codec)
    assert review(payloads, codec, tokens=[320, 6400]).reasons == ["", ""]
    assert review(payloads, codec, tokens=[6400, 6400]).reasons == ["", "outlier"]


def test_stated_tokens_lengthen_the_norm_bound_no_further_than_the_weight() -> None:
    codec, deltas = codec_of("int8"), honest(5)
    ratio = DefenceConfig().max_norm_ratio * DefenceConfig().max_weight_ratio
    deltas[4] = {name: tensor * 2 * ratio for name, tensor in deltas[4].items()}
    payloads = encoded(deltas, codec)
    assert review(payloads, codec, tokens=[400] * 4 + [400_000]).reasons[4] == "outlier"


@pytest.mark.parametrize("steps", [1, 4])
def test_parties_that_train_on_their_own_are_no_copies(steps: int) -> None:
    """The first steps from the same start, in which updates are as alike as they ever are."""
    deltas = [trained_on(party, steps) for party in range(2)]
    flat = [torch.cat([tensor.reshape(-1) for tensor in each.values()]) for each in deltas]
    cosine = float(torch.nn.functional.cosine_similarity(*flat, dim=0))
    assert cosine < 0.99 < SURELY_COPIED


def trained_on(party: int, steps: int) -> Named:
    """What some steps on a party's own part of a text change in a tiny model."""
    text = np.frombuffer(Path(json.decoder.__file__).read_bytes(), dtype=np.uint8)
    samples = torch.from_numpy(text[: len(text) // 33 * 33].reshape(-1, 33).astype(np.int64))
    config = ModelConfig(layers=2, width=32, heads=2, context=32, vocab_size=256)
    model = build_transformer(config, seed=0)
    before = {name: tensor.detach().clone() for name, tensor in model.state().items()}
    optimizer = build_optimizer(model.named(), OptimizerConfig(learning_rate=3e-3))
    for step in range(steps):
        batch = samples[party::2][8 * step : 8 * step + 8]
        model.loss(batch[:, :-1], batch[:, 1:].contiguous()).div(8 * 32).backward()
        optimizer.step(1.0, step)
        model.zero_grad()
    return {name: tensor.detach() - before[name] for name, tensor in model.state().items()}


def test_a_loss_that_is_not_a_number_is_a_rise_without_end() -> None:
    codec = codec_of("fp32")
    payloads = encoded(honest(2), codec)
    losses = iter([1.0, math.nan, 0.5])
    parameters = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    rises = measure_rises(
        parameters, payloads, codec=codec, shapes=SHAPES, loss_of=lambda _: next(losses), rate=1.0
    )
    assert rises == [math.inf, -0.5]
