"""Memory tables: the hash, the sparse gradient, its sum over replicas, and the row-wise update."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from model_shapes import CONTEXT, SHAPES, VOCABULARY
from motley.chips.chip import Chip, Link
from motley.chips.runtime import Runtime
from motley.model.config import ModelConfig
from motley.model.counts import model_counts, parameter_groups
from motley.model.layers import Embedding
from motley.model.table_config import MemoryTables
from motley.model.table_counts import (
    table_gradient_bytes,
    table_shapes,
    table_state_bytes,
    touched_bytes,
)
from motley.model.tables import hash_ngrams
from motley.model.transformer import build_transformer
from motley.optim.rows import RowAdagrad, mean_squares
from motley.plan.memory.stage import stage_memory
from motley.plan.timing.collectives import reached_share
from motley.plan.timing.sync import rows_exchange_seconds
from motley.train.parameters import StageParameters, build_parameters
from motley.train.sparse import add_in_order
from motley.units import Precision

MASK = 2**64 - 1


def with_tables(name: str = "llama", **keys: object) -> ModelConfig:
    tables = MemoryTables(**{"ngrams": (2, 3), "rows": 50, **keys})  # type: ignore[arg-type]
    return dataclasses.replace(SHAPES[name], tables=tables)


def mix(value: int) -> int:
    """SplitMix64 in Python's integers."""
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.lists(st.integers(0, 2**31), min_size=1, max_size=12),
    length=st.integers(2, 8),
    num_rows=st.integers(1, 2**40),
)
def test_the_hash_is_that_of_its_description(tokens: list[int], length: int, num_rows: int) -> None:
    start = 2**31 + 1
    rows = hash_ngrams(torch.tensor([tokens]), length, num_rows, start)[0].tolist()
    for position, row in enumerate(rows):
        state = length
        for back in range(length):
            token = tokens[position - back] if position >= back else start
            state = mix(state ^ token)
        assert row == (state & (2**63 - 1)) % num_rows


def test_the_row_of_a_position_depends_on_its_ngram_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(VOCABULARY, (4, 20), generator=generator)
    whole = hash_ngrams(tokens, 3, 1000, VOCABULARY)
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % VOCABULARY
    other = hash_ngrams(changed, 3, 1000, VOCABULARY)
    same = (whole == other).all(0).tolist()
    assert [place for place, equal in enumerate(same) if not equal] == [5, 6, 7]
    assert hash_ngrams(tokens[:, 6:], 3, 1000, VOCABULARY)[:, 2:].equal(whole[:, 8:])


def test_collisions_are_those_of_a_random_function() -> None:
    """All bigrams of 300 tokens in as many rows: 1/e of the rows stay empty, within 4 deviations;
    no position of a token makes a difference."""
    first, second = torch.meshgrid(torch.arange(300), torch.arange(300), indexing="ij")
    pairs = torch.stack((first.flatten(), second.flatten()), 1)
    rows = hash_ngrams(pairs, 2, 90_000, 300)[:, 1]
    empty = 1 - len(rows.unique()) / 90_000
    deviation = (0.3679 * (1 - 2 * 0.3679) / 90_000) ** 0.5
    assert abs(empty - 0.3679) < 4 * deviation
    counts = torch.bincount(rows % 64, minlength=64).double()
    expected = 90_000 / 64
    assert float(((counts - expected) ** 2 / expected).sum()) < 63 + 4 * (2 * 63) ** 0.5
    assert rows.view(300, 300).ne(rows.view(300, 300).T).float().mean() > 0.99


def test_rows_are_added_to_the_token_embedding() -> None:
    config = with_tables("gpt2")
    layer = build_transformer(config, seed=0).embedding
    assert isinstance(layer, Embedding)
    assert layer.tables is not None
    with torch.no_grad():
        for table in layer.tables.parameters():
            assert not table.any(), "tables begin at zero"
            table.copy_(torch.randn(table.shape, generator=torch.Generator().manual_seed(1)))
    tokens = torch.randint(VOCABULARY, (2, CONTEXT), generator=torch.Generator().manual_seed(0))
    expected = layer.token[tokens] + layer.position[:CONTEXT]
    for length, table in zip((2, 3), layer.tables.parameters(), strict=True):
        expected = expected + table[hash_ngrams(tokens, length, 50, VOCABULARY)]
    torch.testing.assert_close(layer(tokens), expected)


def test_narrow_rows_are_projected() -> None:
    config = with_tables(width=8)
    layer = build_transformer(config, seed=0).embedding
    assert layer.ngram_projection is not None
    assert layer.ngram_projection.weight.shape == (config.width, 16)
    groups = {group.name: group.num_parameters for group in parameter_groups(config)}
    plain = {group.name: group.num_parameters for group in parameter_groups(SHAPES["llama"])}
    assert groups["layer 0"] - plain["layer 0"] == 16 * config.width
    more = model_counts(config, CONTEXT).flops_per_token
    assert more - model_counts(SHAPES["llama"], CONTEXT).flops_per_token == 6 * 16 * config.width


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_in_tables_are_counted_apart(tied: bool) -> None:
    config = dataclasses.replace(with_tables(), tied_head=tied)
    model = build_transformer(config, seed=0)
    counts = model_counts(config, CONTEXT)
    assert counts.parameters == sum(each.numel() for each in model.named().values())
    assert counts.table_parameters == 2 * 50 * config.width
    assert counts.active_parameters == counts.parameters - counts.table_parameters
    assert table_state_bytes(config) == 2 * 50 * (4 * config.width + 4)
    assert touched_bytes(config, 10) == 2 * 10 * (4 * config.width + 8)
    assert touched_bytes(config, 10**6) == touched_bytes(config, 50)


def test_the_planner_counts_tables_where_the_embedding_is() -> None:
    plain, config = SHAPES["llama"], with_tables(rows=10_000)
    grown = {}
    for layers in ((0, 2), (2, 4)):
        needs = [
            stage_memory(each, CONTEXT, "fp32", layers, num_in_flight=1, micro_batch_size=2)
            for each in (plain, config)
        ]
        grown[layers] = needs[1].state_bytes - needs[0].state_bytes
    gradients = table_gradient_bytes(config, 2 * CONTEXT, 2 * CONTEXT)
    assert grown == {(0, 2): table_state_bytes(config) + gradients, (2, 4): 0}


def cpu(config: ModelConfig) -> StageParameters:
    return build_parameters(config, range(config.num_layers), runtime("fp32"), seed=3)


def runtime(precision: Precision) -> Runtime:
    return Runtime(
        Chip(
            name="cpu", kind="cpu", device="cpu", precision=precision,
            flops_per_s={precision: 1e12}, memory_bytes=10**9, memory_bandwidth_bytes_per_s=1e10,
        )
    )  # fmt: skip


def test_the_gradient_is_sparse_and_sums_the_micro_batches() -> None:
    config = with_tables("gpt2", rows=5000)
    parameters = cpu(config)
    embedding = parameters.modules[0]
    reference = build_transformer(config, seed=3).embedding
    assert "tables.ngram2" in parameters.masters
    assert "tables.ngram2" not in parameters.gradients
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        tokens = torch.randint(VOCABULARY, (3, CONTEXT), generator=generator)
        upstream = torch.randn(3, CONTEXT, config.width, generator=generator)
        for module in (embedding, reference):
            torch.autograd.backward(module(tokens), upstream)
        parameters.collect(0)
    parameters.tables.reduce()
    assert reference.tables is not None
    for name, expected in reference.tables.named_parameters():
        gradient = parameters.masters[f"tables.{name}"].grad
        assert gradient is not None
        assert gradient.is_sparse
        assert gradient.is_coalesced()
        assert gradient._nnz() <= 5 * 3 * CONTEXT
        assert expected.grad is not None
        torch.testing.assert_close(gradient.to_dense(), expected.grad.to_dense())
    parameters.clear_gradients()
    assert parameters.masters["tables.ngram2"].grad is None


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), cuts=st.sets(st.integers(1, 39), max_size=3))
def test_the_sum_over_replicas_does_not_depend_on_the_cut(seed: int, cuts: set[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(15, (40,), generator=generator)
    values = torch.randn(40, 3, generator=generator)
    shape = torch.Size((20, 3))
    pieces = []
    bounds = [0, *sorted(cuts), 40]
    for first, last in itertools.pairwise(bounds):
        piece = torch.sparse_coo_tensor(
            rows[None, first:last], values[first:last], shape, check_invariants=True
        ).coalesce()
        pieces.append((piece.indices()[0], piece.values()))
    total = add_in_order(pieces, shape)
    expected = torch.zeros(shape, dtype=torch.float64).index_add_(0, rows, values.double())
    torch.testing.assert_close(total.to_dense().double(), expected, rtol=1e-5, atol=1e-6)
    assert total.indices()[0].tolist() == sorted(set(rows.tolist()))
    again = add_in_order(pieces, shape)
    assert again.values().equal(total.values())


def test_an_update_is_row_wise_adagrad() -> None:
    """Against PyTorch's own Adagrad on tables of one column, where a row has one number."""
    generator = torch.Generator().manual_seed(0)
    table = nn.Parameter(torch.randn(30, 1, generator=generator))
    other = nn.Parameter(table.detach().clone())
    rule = RowAdagrad({"tables.ngram2": table}, rate=0.1)
    adagrad = torch.optim.Adagrad([other], lr=0.1, eps=1e-16)
    for step in range(6):
        rows = torch.randint(30, (1, 12), generator=generator)
        values = torch.randn(12, 1, generator=generator)
        table.grad = torch.sparse_coo_tensor(
            rows, values, table.shape, check_invariants=True
        ).coalesce()
        other.grad = table.grad.to_dense()
        for group in adagrad.param_groups:
            group["lr"] = 0.1 * (1 - step / 10)
        rule.step(1 - step / 10, step)
        adagrad.step()
    torch.testing.assert_close(table, other)


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(1e-9, 1e9), width=st.integers(1, 9))
def test_an_update_touches_its_rows_alone_whatever_the_scale(scale: float, width: int) -> None:
    """So tables need neither the clipping of the global gradient nor the loss scale."""
    tables = {}
    for factor in (1.0, scale):
        table = nn.Parameter(torch.zeros(10, width))
        values = torch.randn(3, width, generator=torch.Generator().manual_seed(width)) * factor
        rows = torch.tensor([[1, 4, 7]])
        gradient = torch.sparse_coo_tensor(rows, values, table.shape, check_invariants=True)
        table.grad = gradient.coalesce()
        rule = RowAdagrad({"tables.value": table}, rate=0.5)
        rule.step(1.0, 0)
        tables[factor] = table.detach()
        assert rule.state("tables.value")["row_sum"].count_nonzero() == 3
    torch.testing.assert_close(tables[1.0], tables[scale])
    changed = tables[1.0].any(1)
    assert changed.nonzero().flatten().tolist() == [1, 4, 7]
    root = tables[1.0][changed].square().mean(1).sqrt()
    torch.testing.assert_close(root, torch.full((3,), 0.5))


def test_mean_squares_is_the_mean_of_squares() -> None:
    for width in range(1, 40):
        values = torch.randn(4, width, generator=torch.Generator().manual_seed(width))
        torch.testing.assert_close(mean_squares(values), values.square().mean(1))


def test_a_chip_in_16_bits_keeps_its_tables_in_fp32() -> None:
    config = with_tables()
    parameters = build_parameters(config, range(1), runtime("bf16"), seed=0)
    assert parameters.compute["tables.ngram2"] is parameters.masters["tables.ngram2"]
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    out: Tensor = parameters.modules[0](tokens)
    assert out.dtype == torch.bfloat16
    torch.autograd.backward(out.sum())
    gradient = parameters.masters["tables.ngram2"].grad
    assert gradient is not None
    assert gradient.dtype == torch.float32


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "name their lengths"),
        ({"ngrams": (1, 2)}, "from 2 to 8"),
        ({"ngrams": (3, 2)}, "must rise"),
        ({"ngrams": (2,), "rows": 0}, "rows: must be above zero"),
        ({"ngrams": (2,), "learning_rate": 11.0}, "absurd"),
        ({"value_blocks": (-1,)}, "at least 0"),
    ],
)
def test_tables_that_make_no_sense(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemoryTables(**keys)  # type: ignore[arg-type]


def test_value_blocks_must_exist() -> None:
    with pytest.raises(ValueError, match="there is no block 2"):
        dataclasses.replace(SHAPES["llama"], tables=MemoryTables(value_blocks=(0, 2)))


def test_shapes_are_those_of_the_modules() -> None:
    config = with_tables(width=8, value_blocks=(1,))
    assert table_shapes(config)["tables.value"] == (VOCABULARY, 2 * 12)


def test_the_exchange_of_rows_takes_what_the_others_touched() -> None:
    link = Link(between=("a", "b"), bandwidth_bytes_per_s=1e9, latency_s=1e-3)
    config = with_tables(rows=1000)
    each = 2 * (4 * config.width + 8)
    seconds = rows_exchange_seconds(config, [10, 30, 5000], link)
    touched = (30 + 1000) * each  # all but the first, who has the fewest
    expected = touched / (1e9 * reached_share(link)) + 3e-3
    assert seconds == pytest.approx(expected)
    assert rows_exchange_seconds(config, [10], link) == 0
    assert rows_exchange_seconds(SHAPES["llama"], [10, 30], link) == 0
