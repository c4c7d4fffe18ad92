"""Text -> tokenizer -> token shards -> batches, without torch: numpy arrays come out.

data = prepare(("python-stdlib",), None, 4096, 0.05, Path("cache"), print)
source = SampleSource(data.train, sequence_length=256, seed=0)
inputs, targets = source.batch(range(0, 32))
"""

from motley.data.batches import (
    IGNORE_INDEX,
    SampleSource,
    bits_per_byte,
    evaluation_samples,
    sample_index,
    target_bytes,
    unigram_entropy,
)
from motley.data.corpus import Document, is_held_out, read_corpus
from motley.data.files import STANDARD_LIBRARY, Report
from motley.data.prepared import PreparedData
from motley.data.shards import prepare
from motley.data.streams import TokenStream
from motley.data.tokenizer import (
    END_OF_TEXT,
    Tokenizer,
    load_tokenizer,
    token_bytes,
    train_tokenizer,
)

__all__ = [
    "END_OF_TEXT",
    "IGNORE_INDEX",
    "STANDARD_LIBRARY",
    "Document",
    "PreparedData",
    "Report",
    "SampleSource",
    "TokenStream",
    "Tokenizer",
    "bits_per_byte",
    "evaluation_samples",
    "is_held_out",
    "load_tokenizer",
    "prepare",
    "read_corpus",
    "sample_index",
    "target_bytes",
    "token_bytes",
    "train_tokenizer",
    "unigram_entropy",
]
