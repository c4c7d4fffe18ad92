"""Merge, outer step, fragments: against references, in any slabs; a refusal changes nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from motley.errors import PayloadError
from motley.federation.charter.terms import AggregateConfig, OuterConfig
from motley.federation.codec import CodecConfig, build_codec
from motley.federation.codec import layout as layout_module
from motley.federation.codec.codec import Codec
from motley.federation.codec.payload import Payload
from motley.federation.state.fragments import mix_in, partition
from motley.federation.state.merge import clip_factors, merge
from test_federation_codec import KINDS, SHAPES, draw, values_of, whole_numbers

PLAIN = AggregateConfig(clip_to_median=False)
STEP = OuterConfig(kind="average", learning_rate=1.0)
NESTEROV = OuterConfig(kind="nesterov", learning_rate=0.7, momentum=0.9)


def fp32() -> Codec:
    return build_codec(CodecConfig(kind="fp32"))


def zeros() -> dict[str, Tensor]:
    return {name: torch.zeros(shape) for name, shape in SHAPES.items()}


def run(
    parameters: dict[str, Tensor],
    momentum: dict[str, Tensor],
    updates: Sequence[tuple[int, Payload]],
    *,
    codec: Codec | None = None,
    outer: OuterConfig = STEP,
    aggregate: AggregateConfig = PLAIN,
    names: Sequence[str] = tuple(SHAPES),
) -> list[float]:
    return merge(
        parameters,
        momentum,
        updates,
        names=names,
        codec=codec or fp32(),
        outer=outer,
        aggregate=aggregate,
    )


def encoded(deltas: Sequence[Mapping[str, Tensor]], codec: Codec | None = None) -> list[Payload]:
    return [(codec or fp32()).encode(delta, None)[0] for delta in deltas]


def test_nesterov_is_that_of_torch() -> None:
    parameters, momentum = draw(SHAPES, 0), zeros()
    reference = {name: tensor.clone().requires_grad_() for name, tensor in parameters.items()}
    optimizer = torch.optim.SGD(reference.values(), lr=0.7, momentum=0.9, nesterov=True)
    for number in range(4):
        deltas = [draw(SHAPES, 10 * number + party) for party in range(3)]
        payloads = encoded(deltas)
        run(parameters, momentum, [(w, p) for w, p in zip((1, 2, 5), payloads, strict=True)],
            outer=NESTEROV)  # fmt: skip
        for name, tensor in reference.items():
            mean = sum(w * d[name].double() for w, d in zip((1, 2, 5), deltas, strict=True)) / 8
            tensor.grad = -mean.float()
        optimizer.step()
    for name in SHAPES:
        torch.testing.assert_close(parameters[name], reference[name].detach(), rtol=1e-5, atol=1e-8)


def test_average_is_weighted_by_tokens() -> None:
    parameters = zeros()
    ones = {name: torch.ones(shape) for name, shape in SHAPES.items()}
    threes = {name: torch.full(shape, 3.0) for name, shape in SHAPES.items()}
    norms = run(parameters, {}, list(zip((300, 100), encoded([ones, threes]), strict=True)))
    count = sum(math.prod(shape) for shape in SHAPES.values())
    assert norms == pytest.approx([math.sqrt(count), 3 * math.sqrt(count)])
    assert all(bool((tensor == 1.5).all()) for tensor in parameters.values())


def test_no_updates_change_nothing_and_fragments_only_their_names() -> None:
    parameters, before = draw(SHAPES, 0), draw(SHAPES, 0)
    assert run(parameters, {}, []) == []
    delta = {"c": torch.ones(4096)}
    run(parameters, {}, [(1, fp32().encode(delta, None)[0])], names=["c"])
    for name in SHAPES:
        assert torch.equal(parameters[name], before[name] + delta.get(name, torch.zeros(())))


def test_longer_updates_are_cut_to_the_median() -> None:
    assert clip_factors([1.0, 2.0, 1000.0]) == [1.0, 1.0, 0.002]
    assert clip_factors([2.0, 8.0]) == [1.0, 0.25]
    assert clip_factors([0.0, 0.0, 5.0]) == [1.0, 1.0, 0.0]
    deltas = [draw(SHAPES, seed) for seed in range(4)]
    deltas[1] = {name: tensor * 1000 for name, tensor in deltas[1].items()}
    parameters, expected = zeros(), zeros()
    aggregate = AggregateConfig(clip_to_median=True)
    norms = run(parameters, {}, [(1, p) for p in encoded(deltas)], aggregate=aggregate)
    for delta, factor in zip(deltas, clip_factors(norms), strict=True):
        for name in SHAPES:
            expected[name] += delta[name] * (factor / 4)
    for name in SHAPES:
        torch.testing.assert_close(parameters[name], expected[name])


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 8), trimmed=st.integers(0, 4))
def test_trimmed_mean_against_numpy(count: int, trimmed: int) -> None:
    deltas = [draw({"w": (300,)}, seed) for seed in range(count)]
    parameters = {"w": torch.zeros(300)}
    aggregate = AggregateConfig(
        aggregate="trimmed_mean", assumed_attackers=trimmed, clip_to_median=False
    )
    run(parameters, {}, [(9**i, p) for i, p in enumerate(encoded(deltas))], names=["w"],
        aggregate=aggregate)  # fmt: skip
    ordered = np.sort(np.stack([delta["w"].double().numpy() for delta in deltas]), axis=0)
    cut = min(trimmed, (count - 1) // 2)
    expected = ordered[cut : count - cut].mean(0)
    np.testing.assert_allclose(parameters["w"].numpy(), expected, rtol=1e-5, atol=1e-10)


def test_trimmed_mean_is_held_by_the_honest() -> None:
    """Whatever one of four sends, each coordinate stays within what the honest sent."""
    honest = [draw({"w": (1000,)}, seed)["w"] for seed in range(3)]
    for evil in (torch.full((1000,), 1e9), -honest[0] * 1000, torch.zeros(1000)):
        parameters = {"w": torch.zeros(1000)}
        payloads = encoded([{"w": value} for value in (*honest, evil)])
        aggregate = AggregateConfig(aggregate="trimmed_mean", clip_to_median=False)
        run(parameters, {}, [(1, p) for p in payloads], names=["w"], aggregate=aggregate)
        stacked = torch.stack(honest)
        assert bool((parameters["w"] <= stacked.amax(0) * 1.00001 + 1e-12).all())
        assert bool((parameters["w"] >= stacked.amin(0) - 1e-6 * stacked.abs().amax(0)).all())


@pytest.mark.parametrize("kind", KINDS)
def test_merge_of_payloads_is_merge_of_what_they_decode_to(kind: str) -> None:
    codec = build_codec(CodecConfig(kind=kind))  # type: ignore[arg-type]
    payloads = encoded([draw(SHAPES, seed) for seed in range(3)], codec)
    decoded = encoded([codec.decode(payload, SHAPES) for payload in payloads])
    states = []
    for source, own in ((payloads, codec), (decoded, fp32())):
        parameters, momentum = draw(SHAPES, 9), draw(SHAPES, 8)
        run(parameters, momentum, [(1, p) for p in source], codec=own, outer=NESTEROV)
        states.append(values_of(parameters) + values_of(momentum))
    assert states[0] == states[1]


@pytest.mark.parametrize("slab_values", [4096, 8192, 2**20])
def test_merged_bits_are_golden(slab_values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The outer step is a contract: every machine, and every later version, gets these bits."""
    monkeypatch.setattr(layout_module, "SLAB_VALUES", slab_values)
    made = {name: whole_numbers(shape, 7 + len(name)) for name, shape in SHAPES.items()}
    digests = []
    for kind in KINDS:
        codec = build_codec(CodecConfig(kind=kind))
        parameters, momentum, residual = zeros(), zeros(), None
        for number in range(3):
            payloads = []
            for factor in (1.0, -0.25, 1 / 3):
                delta = {name: tensor * (factor + number) for name, tensor in made.items()}
                payload, residual = codec.encode(delta, residual)
                payloads.append(payload)
            run(parameters, momentum, list(zip((3, 5, 7), payloads, strict=True)), codec=codec,
                outer=NESTEROV, aggregate=AggregateConfig())  # fmt: skip
        digests.append(hashlib.sha256(values_of(parameters) + values_of(momentum)).hexdigest()[:16])
    assert digests == MERGED


MERGED = ["bcaac670f45bc545", "a1dd6f719b1abfd2", "e909e2478f0a2c8d", "aec0e3a7add518d4"]


def test_a_bad_payload_is_refused_before_anything_changes() -> None:
    parameters, before = draw(SHAPES, 0), draw(SHAPES, 0)
    good, bad = encoded([draw(SHAPES, 1), draw(SHAPES, 2)])
    bad = {name: array.clone() for name, array in bad.items()}
    bad["values"][-1, -1] = 0x7FC00000
    assert run(parameters, {}, [(1, good), (1, bad)]), "NaN bits in the padding mean nothing"
    parameters = draw(SHAPES, 0)
    bad["values"][0, 0] = 0x7FC00000
    with pytest.raises(PayloadError) as refused:
        run(parameters, {}, [(1, good), (1, bad)])
    assert refused.value.reason == "nonfinite"
    assert values_of(parameters) == values_of(before)


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 1000), min_size=1, max_size=30), num_fragments=st.integers(1, 8)
)
def test_fragments_hold_each_name_once_and_are_even(sizes: list[int], num_fragments: int) -> None:
    shapes = {f"{index:02}": (size,) for index, size in enumerate(sizes)}
    fragments = partition(shapes, num_fragments)
    assert sorted(name for names in fragments for name in names) == sorted(shapes)
    assert fragments == partition(dict(reversed(shapes.items())), num_fragments)
    totals = [sum(math.prod(shapes[name]) for name in names) for names in fragments]
    assert max(totals) <= sum(sizes) / num_fragments + max(sizes)


def test_mixing_keeps_the_steps_since_the_update_was_made() -> None:
    published, merged = draw(SHAPES, 0), draw(SHAPES, 1)
    local = {name: tensor + 1 for name, tensor in published.items()}
    expected = {name: merged[name] + 1 for name in SHAPES}
    mix_in(local, published, merged, 1.0)
    for name in SHAPES:
        torch.testing.assert_close(local[name], expected[name])
    still = {name: tensor.clone() for name, tensor in published.items()}
    mix_in(still, published, merged, 1.0)
    assert values_of(still) == values_of(merged)
    half = {name: tensor.clone() for name, tensor in published.items()}
    mix_in(half, published, merged, 0.5)
    for name in SHAPES:
        torch.testing.assert_close(half[name], (published[name] + merged[name]) / 2)


def test_outer_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="momentum"):
        OuterConfig(momentum=1.0)
    with pytest.raises(ValueError, match="learning_rate"):
        dataclasses.replace(STEP, learning_rate=0.0)
    with pytest.raises(ValueError, match="density"):
        CodecConfig(density=0.3)
    with pytest.raises(ValueError, match="feedback_decay"):
        CodecConfig(feedback_decay=1.5)
