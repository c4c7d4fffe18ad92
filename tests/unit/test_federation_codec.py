"""Codecs by property: what is kept comes back exactly, what is left out is fed back, what is not
of the codec is refused, and neither slabs nor threads change a bit."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from motley.errors import PayloadError
from motley.federation.codec import CodecConfig, CodecKind, build_codec
from motley.federation.codec import layout as layout_module
from motley.federation.codec.arithmetic import (
    fixed_order_sum,
    from_short,
    short_ceiling,
    short_nearest,
)
from motley.federation.codec.codec import Codec
from motley.federation.codec.layout import Layout
from motley.federation.codec.positions import PositionCode

KINDS: tuple[CodecKind, ...] = ("fp32", "int8", "int4", "topk")
SHAPES = {"b.bias": (5,), "a.weight": (70, 129), "c": (4096,), "d": (1, 1), "e.weight": (3, 3000)}

kinds = st.sampled_from(KINDS)
shapes_of = st.dictionaries(
    st.text("abc.", min_size=1, max_size=4),
    st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple),
    min_size=1,
    max_size=4,
)


def values_of(payload: Mapping[str, Tensor]) -> bytes:
    return b"".join(payload[name].numpy().tobytes() for name in sorted(payload))


def codec_of(kind: CodecKind, **settings: float) -> Codec:
    return build_codec(CodecConfig(kind=kind, **settings))  # type: ignore[arg-type]


def draw(
    shapes: Mapping[str, tuple[int, ...]], seed: int, scale: float = 1e-3
) -> dict[str, Tensor]:
    """Heavy-tailed values, as updates are."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) ** 3 * scale
        for name, shape in sorted(shapes.items())
    }


def largest(tensors: Mapping[str, Tensor]) -> float:
    return max(float(tensor.abs().max()) for tensor in tensors.values())


@settings(max_examples=25, deadline=None)
@given(kind=kinds, shapes=shapes_of, seed=st.integers(0, 99), power=st.integers(-60, 60))
def test_what_is_left_out_is_fed_back(
    kind: CodecKind, shapes: dict[str, tuple[int, ...]], seed: int, power: int
) -> None:
    """Over the rounds: sum of decoded + residual = sum of encoded."""
    codec, residual = codec_of(kind), None
    sums = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}
    scale = 0.0
    for number in range(4):
        delta = draw(shapes, seed + number, 2.0**power)
        payload, residual = codec.encode(delta, residual)
        decoded = codec.decode(payload, shapes)
        scale += largest(delta)
        for name in shapes:
            sums[name] += delta[name].double() - decoded[name].double()
    assert residual is not None
    for name, total in sums.items():
        assert float((total - residual[name].double()).abs().max()) <= 1e-6 * scale


@settings(max_examples=25, deadline=None)
@given(kind=kinds, shapes=shapes_of, seed=st.integers(0, 99))
def test_decoded_values_come_back_exactly(
    kind: CodecKind, shapes: dict[str, tuple[int, ...]], seed: int
) -> None:
    """What a codec has written once, it writes again without error."""
    codec = codec_of(kind)
    decoded = codec.decode(codec.encode(draw(shapes, seed), None)[0], shapes)
    payload, residual = codec.encode(decoded, None)
    again = codec.decode(payload, shapes)
    if kind in ("fp32", "topk"):
        assert all(torch.equal(again[name], decoded[name]) for name in shapes)
        assert largest(residual) == 0
    assert largest(residual) <= largest(decoded) / 7


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_dense_errors_are_at_most_half_a_step(kind: CodecKind) -> None:
    codec, delta = codec_of(kind), draw(SHAPES, 1)
    payload, residual = codec.encode(delta, None)
    layout = codec.layout(SHAPES)
    steps = from_short(payload["steps"].numpy())
    flat = {name: tensor.view(-1).numpy() for name, tensor in residual.items()}
    values = {name: tensor.view(-1).numpy() for name, tensor in delta.items()}
    for slab in layout.slabs():
        errors, own = layout.gather(slab, flat), layout.gather(slab, values)
        peaks, step = np.abs(own).max(1), steps[slab.rows]
        assert (np.abs(errors).max(1) <= step * 0.50001).all()
        levels = {"int8": 127, "int4": 7}[kind]
        assert (step * levels >= peaks).all()
        assert (step * levels <= peaks * (1 + 2**-6)).all()


def test_the_largest_values_are_kept_and_the_first_of_equal_ones() -> None:
    codec = codec_of("topk", density=3 / 4096)
    values = torch.zeros(4096)
    values[[7, 1000, 4000, 4095]] = torch.tensor([-2.0, 2.0, 5.0, 2.0])
    payload, residual = codec.encode({"w": values}, None)
    decoded = codec.decode(payload, {"w": (4096,)})["w"]
    assert decoded.nonzero().view(-1).tolist() == [7, 1000, 4000]
    assert decoded[[7, 1000, 4000]].tolist() == [-2.0, 2.0, 5.0]
    assert residual["w"].nonzero().view(-1).tolist() == [4095]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), kept=st.integers(1, 1024))
def test_top_k_keeps_what_a_sort_keeps(seed: int, kept: int) -> None:
    codec = codec_of("topk", density=kept / 4096)
    values = draw({"w": (2, 4096)}, seed)["w"]
    payload, residual = codec.encode({"w": values}, None)
    decoded = codec.decode(payload, {"w": (2, 4096)})["w"]
    for row in range(2):
        expected = values[row].abs().argsort(descending=True)[:kept].sort().values
        assert (decoded[row] != 0).nonzero().view(-1).tolist() == expected.tolist()
        assert bool((decoded[row][expected].sign() == values[row][expected].sign()).all())
        error = torch.linalg.vector_norm((values - decoded)[row])
        assert error < torch.linalg.vector_norm(values[row])
    assert torch.equal(residual["w"], values - decoded)


@settings(max_examples=50, deadline=None)
@given(data=st.data(), power=st.integers(0, 12))
def test_position_code_round_trip_and_size(data: st.DataObject, power: int) -> None:
    size = 2**power
    count = data.draw(st.integers(1, size))
    code = PositionCode(count=count, size=size)
    rows = [
        sorted(data.draw(st.sets(st.integers(0, size - 1), min_size=count, max_size=count)))
        for _ in range(2)
    ] if size <= 64 else [
        sorted(np.random.default_rng(seed).choice(size, count, replace=False)) for seed in (0, 1)
    ]  # fmt: skip
    bits = code.write(np.array(rows, dtype=np.int16))
    assert bits.shape == (2, code.num_bits)
    found = code.read(bits)
    assert found is not None
    assert found.tolist() == rows
    assert code.num_bits <= count * (2 + math.log2(size / count)) + 1


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 9999))
def test_any_bits_that_are_read_are_what_is_written(seed: int) -> None:
    """No two bit strings stand for one set of positions."""
    code = PositionCode(count=5, size=32)
    generator = np.random.default_rng(seed)
    bits = code.write(np.sort(generator.choice(32, (1, 5), replace=False)).astype(np.int16))
    flipped = bits ^ (generator.random(bits.shape) < 0.1)
    found = code.read(flipped)
    assert found is None or (code.write(found) == flipped).all()


@pytest.mark.parametrize("kind", KINDS)
def test_slabs_and_threads_change_no_bit(kind: CodecKind, monkeypatch: pytest.MonkeyPatch) -> None:
    codec, delta = codec_of(kind), draw(SHAPES, 3)
    results = []
    for slab_values in (2**12, 2**13, 2**20):
        monkeypatch.setattr(layout_module, "SLAB_VALUES", slab_values)
        payload, residual = codec.encode(delta, draw(SHAPES, 4))
        results.append((payload, residual, codec.decode(payload, SHAPES)))
    for parts in zip(*results, strict=True):
        for other in parts[1:]:
            assert all(torch.equal(parts[0][name], other[name]) for name in parts[0])


GOLDEN = {
    "fp32": "83dc6bcd4c1a378d",
    "int8": "a454ee57b349e0d4",
    "int4": "0749cfe0ead0604a",
    "topk": "8d2481526fd67765",
}


def whole_numbers(shape: tuple[int, ...], factor: int) -> Tensor:
    """Values that any machine makes alike: a linear congruence over 2^16, cubed in fp64."""
    count = math.prod(shape)
    states = (torch.arange(count, dtype=torch.int64) * factor + 12345) * 1103515245 % 65536 - 32768
    return ((states.double() / 32768) ** 3 / 1024).float().view(shape)


@pytest.mark.parametrize("kind", KINDS)
def test_payload_bits_are_golden(kind: CodecKind) -> None:
    """The wire format is a contract: these digests change only with the protocol's version."""
    delta = {name: whole_numbers(shape, 7 + len(name)) for name, shape in SHAPES.items()}
    payload, residual = codec_of(kind).encode(delta, None)
    digest = hashlib.sha256(values_of(payload) + values_of(residual)).hexdigest()
    assert digest[:16] == GOLDEN[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_norm_is_that_of_the_decoded_update(kind: CodecKind) -> None:
    codec = codec_of(kind)
    payload, _ = codec.encode(draw(SHAPES, 5), None)
    decoded = codec.decode(payload, SHAPES)
    expected = math.fsum(
        value * value for tensor in decoded.values() for value in tensor.double().view(-1).tolist()
    )
    assert codec.squared_norm(payload, SHAPES) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_bits_per_parameter_are_those_of_the_payload(kind: CodecKind) -> None:
    codec, shapes = codec_of(kind), {"w": (64, 4096)}
    payload, _ = codec.encode(draw(shapes, 0), None)
    num_bytes = sum(array.nbytes for array in payload.values())
    assert num_bytes == codec.payload_bytes(shapes)
    assert num_bytes * 8 / (64 * 4096) == codec.bits_per_parameter


def test_sparse_payloads_take_a_fifth_of_a_bit() -> None:
    assert codec_of("topk", density=1 / 64).bits_per_parameter == 0.1640625
    assert codec_of("topk", density=3 / 128).bits_per_parameter == 0.2265625
    assert codec_of("topk", density=1 / 32).bits_per_parameter == 0.2890625


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
def test_an_update_that_is_not_finite_is_not_written(kind: CodecKind, value: float) -> None:
    delta = draw(SHAPES, 0)
    delta["a.weight"][3, 4] = value
    with pytest.raises(PayloadError, match="not finite") as refused:
        codec_of(kind).encode(delta, None)
    assert refused.value.reason == "nonfinite"


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_and_denormals_are_coded_without_noise(kind: CodecKind) -> None:
    shapes = {"w": (4096,)}
    for value in (0.0, 1e-42, -1e-38):
        delta = {"w": torch.full((4096,), value)}
        payload, residual = codec_of(kind).encode(delta, None)
        decoded = codec_of(kind).decode(payload, shapes)
        assert torch.equal(decoded["w"] + residual["w"], delta["w"])
        assert kind == "fp32" or largest(decoded) == 0


def test_feedback_decays_as_the_charter_says() -> None:
    codec, delta = codec_of("topk", feedback_decay=0.5), draw(SHAPES, 0)
    _, residual = codec.encode(delta, None)
    zero = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    payload, after = codec.encode(zero, residual)
    decoded = codec.decode(payload, SHAPES)
    for name in SHAPES:
        assert torch.equal(after[name], residual[name] * 0.5 - decoded[name])


def damage(payload: dict[str, Tensor], generator: np.random.Generator) -> dict[str, Tensor]:
    """A payload with bytes changed, or an array dropped, renamed, retyped, reshaped."""
    names, damaged = sorted(payload), dict(payload)
    name = names[generator.integers(len(names))]
    match generator.integers(6):
        case 0:
            del damaged[name]
        case 1:
            damaged["other"] = damaged.pop(name)
        case 2:
            damaged[name] = payload[name].to(torch.int64)
        case 3:
            damaged[name] = payload[name][:-1]
        case 4:
            damaged[name] = payload[name].view(torch.uint8).to(torch.float32)
        case _:
            raw = payload[name].clone().view(-1).view(torch.uint8)
            places = generator.integers(len(raw), size=8)
            raw[places] = torch.from_numpy(generator.integers(256, size=8).astype(np.uint8))
            damaged[name] = raw.view(payload[name].dtype).view(payload[name].shape)
    return damaged


@settings(max_examples=80, deadline=None)
@given(kind=kinds, seed=st.integers(0, 10**6))
def test_a_damaged_payload_is_refused_or_harmless(kind: CodecKind, seed: int) -> None:
    """No crash, no NaN: either `PayloadError`, or finite values whose norm is the stated one."""
    codec, generator = codec_of(kind), np.random.default_rng(seed)
    payload = damage(codec.encode(draw(SHAPES, seed % 7), None)[0], generator)
    try:
        norm = codec.squared_norm(payload, SHAPES)
    except PayloadError:
        with pytest.raises(PayloadError) as refused:
            codec.decode(payload, SHAPES)
        assert refused.value.reason in ("malformed", "nonfinite")
        return
    decoded = codec.decode(payload, SHAPES)
    assert all(bool(tensor.isfinite().all()) for tensor in decoded.values())
    assert math.isfinite(norm)


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.floats(-1e6, 1e6), max_size=70))
def test_fixed_order_sum(values: list[float]) -> None:
    expected, scale = math.fsum(values), math.fsum(abs(value) for value in values)
    assert fixed_order_sum(np.array(values)) == pytest.approx(expected, abs=1e-14 * scale + 1e-300)


@settings(max_examples=50, deadline=None)
@given(value=st.floats(2.0**-99, 2.0**95, width=32))
def test_short_floats_bracket_the_value(value: float) -> None:
    one = np.array([value], dtype=np.float32)
    up, near = from_short(short_ceiling(one))[0], from_short(short_nearest(one))[0]
    assert value <= up <= value * (1 + 2**-7)
    assert abs(near - value) <= value * 2**-8


@settings(max_examples=25, deadline=None)
@given(shapes=shapes_of, chunk=st.sampled_from([4, 64, 4096]))
def test_layout_gathers_and_scatters_every_value_once(
    shapes: dict[str, tuple[int, ...]], chunk: int
) -> None:
    layout = Layout(shapes, chunk)
    values = {name: tensor.view(-1).numpy() for name, tensor in draw(shapes, 0).items()}
    back = {name: np.full_like(value, np.nan) for name, value in values.items()}
    rows = 0
    for slab in layout.slabs():
        gathered = layout.gather(slab, values)
        assert gathered.shape == (slab.num_chunks, chunk)
        rows += slab.num_chunks
        layout.scatter(slab, gathered, back)
    assert rows == layout.num_chunks
    assert all((back[name] == values[name]).all() for name in values)
    assert layout.num_values == sum(math.prod(shape) for shape in shapes.values())
