"""`[data]` and `[batch]`: what is read, and how much of it in one step."""

from __future__ import annotations

from dataclasses import dataclass

from motley.model.config import LARGEST_VOCABULARY, LONGEST_SEQUENCE
from motley.schema import require_at_most, require_positive


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    corpus: tuple[str, ...] = ("python-stdlib",)
    """Text files, folders or .jsonl files; "python-stdlib" is the interpreter's own library."""
    tokenizer: str | None = None
    """A Hugging Face tokenizer.json; unset trains a byte-level BPE on the corpus."""
    vocab_size: int = 4096
    """Size of the trained tokenizer's vocabulary."""
    held_out_share: float = 0.05
    """Share of the documents kept for validation, chosen by a hash of their path."""

    def __post_init__(self) -> None:
        require_positive(self, "vocab_size")
        require_at_most(self, vocab_size=LARGEST_VOCABULARY)
        if not self.corpus or not all(self.corpus):
            raise ValueError("corpus: names no text")
        if self.vocab_size < 257:
            raise ValueError("vocab_size: must be at least 257 (256 bytes and the end of text)")
        if not 0 < self.held_out_share < 1:
            raise ValueError(
                f"held_out_share: must be between 0 and 1, found {self.held_out_share}"
            )


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    sequence_length: int = 256
    """Tokens of one sample."""
    global_batch: int = 32
    """Samples of one optimizer step, over all replicas."""

    def __post_init__(self) -> None:
        require_positive(self, "sequence_length", "global_batch")
        require_at_most(self, sequence_length=LONGEST_SEQUENCE, global_batch=2**20)
