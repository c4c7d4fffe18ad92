"""The order of samples, the batches, and bits per byte against brute force."""

from __future__ import annotations

import math
from collections import Counter
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley.data import (
    IGNORE_INDEX,
    SampleSource,
    TokenStream,
    bits_per_byte,
    evaluation_samples,
    sample_index,
    target_bytes,
    unigram_entropy,
)
from motley.data.streams import ShardWriter, shard_path
from motley.errors import CorpusError

VOCAB_SIZE = 1000

GOLDEN_ORDER = [0, 7, 9, 11, 8, 5, 10, 2, 1, 6, 3, 4, 10, 6, 3, 9, 1, 2, 0, 4, 11, 8, 7, 5]
GOLDEN_FAR = 782871759834


def make_stream(folder: Path, num_tokens: int, shard_tokens: int = 1 << 20) -> TokenStream:
    """Tokens 0, 1, 2, ... modulo the vocabulary."""
    with ShardWriter(folder, "train", VOCAB_SIZE, shard_tokens) as writer:
        writer.append((np.arange(num_tokens) % VOCAB_SIZE).tolist())
    paths = tuple(shard_path(folder, "train", n) for n in range(len(writer.counts)))
    return TokenStream(paths, tuple(writer.counts), VOCAB_SIZE, num_tokens, 1)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(-(2**70), 2**70),
    epoch=st.integers(0, 2**40),
    num_samples=st.integers(1, 400),
)
def test_each_epoch_visits_every_sample_once(seed: int, epoch: int, num_samples: int) -> None:
    start = epoch * num_samples
    order = [sample_index(seed, start + n, num_samples) for n in range(num_samples)]
    assert sorted(order) == list(range(num_samples))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**40), kept=st.sets(st.integers(0, 99), min_size=1))
def test_an_epoch_of_kept_samples_visits_each_of_them_once(seed: int, kept: set[int]) -> None:
    numbers = np.array(sorted(kept), dtype="<u4")
    stream = TokenStream((), (1001,), VOCAB_SIZE, 1001, 1)
    source = SampleSource(stream, sequence_length=10, seed=seed, kept=numbers)
    assert source.num_samples == len(kept)
    for epoch in range(2):
        start = epoch * len(kept)
        assert sorted(source.sample(start + n) for n in range(len(kept))) == sorted(kept)


def test_large_epoch_is_a_bijection() -> None:
    num_samples = 50_021
    order = {sample_index(3, position, num_samples) for position in range(num_samples)}
    assert order == set(range(num_samples))


def test_order_is_fixed_for_ever() -> None:
    """Golden: a changed order would silently change every run that resumes."""
    assert [sample_index(0, position, 12) for position in range(24)] == GOLDEN_ORDER
    assert sample_index(7, 10**15, 10**12) == GOLDEN_FAR


def test_small_orders_are_spread_evenly_over_seeds() -> None:
    """Each of the 24 orders of 4 samples comes up about 1/24 of the time (5 sigma)."""
    num_seeds = 4800
    found = Counter(
        tuple(sample_index(seed, position, 4) for position in range(4)) for seed in range(num_seeds)
    )
    mean = num_seeds / 24
    assert all(abs(found[order] - mean) < 5 * math.sqrt(mean) for order in permutations(range(4)))


def test_neighbours_in_the_stream_are_not_neighbours_in_the_order() -> None:
    num_samples = 10_000
    order = np.array([sample_index(0, position, num_samples) for position in range(num_samples)])
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05
    assert np.mean(np.abs(np.diff(order)) == 1) < 0.002
    next_epoch = [sample_index(0, num_samples + n, num_samples) for n in range(num_samples)]
    assert abs(np.corrcoef(order, next_epoch)[0, 1]) < 0.05


@settings(max_examples=50, deadline=None)
@given(num_tokens=st.integers(2, 300), shard_tokens=st.integers(20, 120), length=st.integers(1, 60))
def test_samples_cover_each_target_once_whatever_the_shards(
    tmp_path_factory: pytest.TempPathFactory, num_tokens: int, shard_tokens: int, length: int
) -> None:
    stream = make_stream(tmp_path_factory.mktemp("stream"), num_tokens, shard_tokens)
    assert stream.num_tokens == num_tokens
    shuffled = SampleSource(stream, length, seed=1)
    positions = range(shuffled.num_samples)
    for source in (shuffled, evaluation_samples(stream, length)):
        inputs, targets = source.batch(positions)
        assert inputs.shape == targets.shape == (math.ceil((num_tokens - 1) / length), length)
        assert inputs.dtype == targets.dtype == np.int64
        scored = targets != IGNORE_INDEX
        np.testing.assert_array_equal(targets[scored], inputs[scored] + 1)
        assert not inputs[~scored].any()
        assert sorted(targets[scored]) == list(range(1, num_tokens))
        assert source.num_targets(positions) == scored.sum()
    np.testing.assert_array_equal(targets[scored], np.arange(1, num_tokens))


def test_uneven_shares_join_to_the_whole_batch(tmp_path: Path) -> None:
    source = SampleSource(make_stream(tmp_path, 5000), 7, seed=5)
    whole, _ = source.batch(range(640, 672))
    shares = [source.batch(range(*bounds))[0] for bounds in ((640, 641), (641, 660), (660, 672))]
    np.testing.assert_array_equal(whole, np.concatenate(shares))
    assert source.batch(range(3, 3))[0].shape == (0, 7)


def test_limit_scores_the_first_samples_only(tmp_path: Path) -> None:
    stream = make_stream(tmp_path, 100)
    source = evaluation_samples(stream, 10, limit=3)
    assert source.num_samples == 3
    _, targets = source.batch(range(3))
    np.testing.assert_array_equal(targets.ravel(), np.arange(1, 31))
    assert evaluation_samples(stream, 10, limit=99).num_samples == 10
    with pytest.raises(IndexError, match="sample 3 of 3"):
        source.batch(range(4))
    with pytest.raises(ValueError, match="at least 1"):
        evaluation_samples(stream, 10, limit=0)


def test_read_outside_the_stream_is_an_error(tmp_path: Path) -> None:
    stream = make_stream(tmp_path, 100, shard_tokens=30)
    assert len(stream.read(100, 0)) == 0
    for start, count in ((-1, 2), (99, 2), (0, -1)):
        with pytest.raises(IndexError):
            stream.read(start, count)


def test_flipped_bits_give_an_error_and_no_unknown_id(tmp_path: Path) -> None:
    stream = make_stream(tmp_path, 100)
    content = bytearray(stream.paths[0].read_bytes())
    content[51] ^= 0x80
    stream.paths[0].write_bytes(content)
    assert stream.read(0, 25).tolist() == list(range(25))
    with pytest.raises(CorpusError, match="damaged") as caught:
        stream.read(0, 26)
    assert "Delete" in caught.value.remedy


def test_large_vocabulary_takes_four_bytes(tmp_path: Path) -> None:
    tokens = [0, 65_535, 65_536, 150_000]
    with ShardWriter(tmp_path, "train", 150_001, 3) as writer:
        writer.append(tokens)
    paths = tuple(shard_path(tmp_path, "train", n) for n in range(2))
    assert [path.stat().st_size for path in paths] == [12, 4]
    stream = TokenStream(paths, tuple(writer.counts), 150_001, 1, 1)
    assert stream.read(0, 4).tolist() == tokens


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), length=st.integers(1, 30), limit=st.none() | st.just(2))
def test_bits_per_byte_is_the_brute_force_value(
    tmp_path_factory: pytest.TempPathFactory, seed: int, length: int, limit: int | None
) -> None:
    stream = make_stream(tmp_path_factory.mktemp("stream"), 200)
    random = np.random.default_rng(seed)
    table = random.integers(0, 9, VOCAB_SIZE).astype(np.float64)
    probability = random.uniform(0.01, 1, VOCAB_SIZE)
    source = evaluation_samples(stream, length, limit)
    loss_sum, num_bytes = 0.0, 0.0
    for position in range(source.num_samples):
        _, targets = source.batch(range(position, position + 1))
        scored = targets[targets != IGNORE_INDEX]
        loss_sum += float(-np.log(probability[scored]).sum())
        num_bytes += target_bytes(targets, table)
    tokens = range(1, 200 if limit is None else min(200, 1 + limit * length))
    expected_bits = sum(-math.log2(probability[token]) for token in tokens)
    expected_bytes = sum(table[token] for token in tokens)
    if expected_bytes:
        found = bits_per_byte(loss_sum, num_bytes)
        assert found == pytest.approx(expected_bits / expected_bytes, rel=1e-12)


def test_bits_per_byte_of_a_uniform_guess_is_eight() -> None:
    assert bits_per_byte(10 * math.log(256), 10) == pytest.approx(8, rel=1e-15)
    for num_bytes in (0, -1, math.nan):
        with pytest.raises(ValueError, match="above zero"):
            bits_per_byte(1.0, num_bytes)


def test_unigram_entropy_against_its_definition(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "train", VOCAB_SIZE, 1 << 20) as writer:
        writer.append([0, 1, 1, 2, 2, 2, 2, 5])
    paths = (shard_path(tmp_path, "train", 0),)
    stream = TokenStream(paths, tuple(writer.counts), VOCAB_SIZE, 8, 1)
    shares = [1 / 8, 2 / 8, 4 / 8, 1 / 8]
    expected = -sum(share * math.log(share) for share in shares)
    assert unigram_entropy(stream) == pytest.approx(expected)
    assert unigram_entropy(stream, num_tokens=1) == 0.0
