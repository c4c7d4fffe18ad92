"""`[model.tables]`: parameters that are looked up instead of multiplied with.

A table costs memory and hardly any FLOPs: each token reads one row of it, and only rows that were
read are changed by an update. N-gram tables (Engram-like; hashing as in Svenstrup et al., arXiv
1709.03933) are added to the token embedding; the value table (modded-nanogpt's value embeddings)
gives each token numbers that chosen blocks add to what their attention mixes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from motley.schema import require_positive, require_rates

LARGEST_NGRAM = 8
TABLES = "tables."
"""How the global names of all tables begin."""
VALUE_TABLE = "tables.value"


@dataclass(frozen=True, kw_only=True)
class MemoryTables:
    """Which tables the model has, and how they learn."""

    ngrams: tuple[int, ...] = ()
    """Lengths of token sequences that have rows, such as [2, 3]; a table for each length. The row
    is a hash of the sequence, so unlike sequences may share one."""
    rows: int = 2**16
    """Of each n-gram table."""
    width: int | None = None
    """Of an n-gram's row; if it is not the stream's, a matrix projects the rows of all n-gram
    tables, side by side, to the stream. Unset means the stream's."""
    value_blocks: tuple[int, ...] = ()
    """Blocks, from 0, that add each token's row of the value table to the values of its attention;
    the row has the width of all value heads."""
    learning_rate: float | None = None
    """Peak root mean square of what an update adds to a row that it changes for the first time;
    unset means twice the rate of embeddings (`Recipe.table_rate`)."""

    def __post_init__(self) -> None:
        require_positive(self, "rows", "width")
        require_rates(self, "learning_rate")
        if not self.ngrams and not self.value_blocks:
            raise ValueError("ngrams: name their lengths, such as [2, 3], or name value_blocks")
        _require_ascending("ngrams", self.ngrams, 2, LARGEST_NGRAM)
        _require_ascending("value_blocks", self.value_blocks, 0, None)


def _require_ascending(name: str, numbers: tuple[int, ...], least: int, most: int | None) -> None:
    if any(first >= second for first, second in pairwise(numbers)):
        raise ValueError(f"{name}: must rise, found {list(numbers)}")
    if numbers and (numbers[0] < least or (most is not None and numbers[-1] > most)):
        bounds = f"from {least} to {most}" if most is not None else f"at least {least}"
        raise ValueError(f"{name}: each must be {bounds}, found {list(numbers)}")


def ngram_table(length: int) -> str:
    """The global name of the table of sequences of that length."""
    return f"tables.ngram{length}"
