"""Tables of rows that tokens look up: hashed n-grams, and values for the attention.

A row's number is a pure function of tokens of its own sample: the hash starts from the n-gram's
length and takes in the tokens from the newest back to the oldest, each by one step of SplitMix64;
its lower 63 bits modulo the number of rows are the row. Before a sample's first token stands a
token of its own (the vocabulary's size), so every position has its row; end-of-text is a token like
any other, and n-grams reach over it as attention does.

Shapes: b batch, s sequence, t width of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from motley.model.config import ModelConfig
from motley.model.table_config import VALUE_TABLE, ngram_table
from motley.model.table_counts import table_shapes

_LOWER_63_BITS = 2**63 - 1


class Tables(nn.Module):
    """The tables of a model; parameters are called as the global names' last parts."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.tables is not None
        self.ngrams = config.tables.ngrams
        self.has_values = bool(config.tables.value_blocks)
        self.start = config.vocabulary
        for name, shape in table_shapes(config).items():
            self.register_parameter(name.rpartition(".")[2], nn.Parameter(torch.empty(shape)))

    def ngram_rows(self, tokens_bs: Tensor, dtype: torch.dtype) -> list[Tensor]:
        """Each n-gram table's rows [b, s, t] of the sequences that end at each token."""
        found = []
        for length in self.ngrams:
            table = self.get_parameter(ngram_table(length).rpartition(".")[2])
            rows_bs = hash_ngrams(tokens_bs, length, table.shape[0], self.start)
            found.append(self._look_up(rows_bs, table, dtype))
        return found

    def values(self, tokens_bs: Tensor, dtype: torch.dtype) -> Tensor:
        """Each token's row [b, s, t] of the value table."""
        table = self.get_parameter(VALUE_TABLE.rpartition(".")[2])
        return self._look_up(tokens_bs, table, dtype)

    def _look_up(self, rows_bs: Tensor, table: Tensor, dtype: torch.dtype) -> Tensor:
        """The table's gradient is sparse: of the rows that were looked up alone."""
        return functional.embedding(rows_bs, table, sparse=True).to(dtype)


def hash_ngrams(tokens_bs: Tensor, length: int, num_rows: int, start: int) -> Tensor:
    """The row [b, s] of each position's n-gram of that length; `start` stands before the sample."""
    padded = functional.pad(tokens_bs, (length - 1, 0), value=start)
    state_bs = torch.full_like(tokens_bs, length)
    for back in range(length):
        first = length - 1 - back
        state_bs = _mix(state_bs ^ padded[:, first : first + tokens_bs.shape[1]])
    return (state_bs & _LOWER_63_BITS) % num_rows


def _mix(value: Tensor) -> Tensor:
    """64 bits to 64 bits: one step of SplitMix64 (Steele et al., 2014), in int64 that wraps."""
    value = value + _signed(0x9E3779B97F4A7C15)
    value = (value ^ _shifted(value, 30)) * _signed(0xBF58476D1CE4E5B9)
    value = (value ^ _shifted(value, 27)) * _signed(0x94D049BB133111EB)
    return value ^ _shifted(value, 31)


def _shifted(value: Tensor, bits: int) -> Tensor:
    """To the right, with zeros coming in."""
    shifted: Tensor = (value >> bits) & (2 ** (64 - bits) - 1)
    return shifted


def _signed(bits: int) -> int:
    """The int64 that has the same 64 bits."""
    return bits - 2**64 if bits >= 2**63 else bits
