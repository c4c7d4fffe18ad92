"""Text to token ids and back: a byte-level BPE trained here, or a Hugging Face `tokenizer.json`.

Documents are plain text: a special token's name inside a document is read letter by letter, so no
text can end a document early. Only `motley.data` itself puts end-of-text ids into a stream.

    tokenizer = train_tokenizer(["some text"], vocab_size=300)
    tokenizer.decode(tokenizer.encode("more text"))
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from motley.data.interruptible import fed
from motley.errors import StorageError, TokenizerError
from motley.files import write_whole

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

END_OF_TEXT = "<|endoftext|>"
"""The one special token of a trained tokenizer; its id is 0."""

MIN_VOCAB_SIZE = 257
"""All 256 bytes and the end of text."""

_END_OF_TEXT_NAMES = (
    END_OF_TEXT,
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<|eos|>",
    "[EOS]",
    "<|end▁of▁sentence|>",
)
"""What GPT-2 and Qwen, Llama 3, Llama 2 and Mistral, Gemma, and others end a document with."""


class Tokenizer:
    """Token ids in [0, vocab_size); make one with `train_tokenizer` or `load_tokenizer`."""

    def __init__(self, backend: Backend, end_of_text: int) -> None:
        self._backend = backend
        self.end_of_text = end_of_text

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id, so an embedding of that many rows has room for each."""
        return max(self._backend.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of the tokenizer's canonical JSON."""
        return canonical_digest(self.to_json())

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, with no special token before or after."""
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, on all cores."""
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; special tokens have none, and half a character becomes U+FFFD."""
        return str(self._backend.decode([int(token) for token in ids], skip_special_tokens=True))

    def token_texts(self) -> dict[int, str]:
        """Each id's token as the vocabulary spells it, special tokens left out."""
        special = {
            token
            for token, added in self._backend.get_added_tokens_decoder().items()
            if added.special
        }
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        return {token: text for text, token in vocabulary.items() if token not in special}

    def added_texts(self) -> dict[int, str]:
        """The tokens that were added to the vocabulary as plain text, spelled as that text."""
        added = self._backend.get_added_tokens_decoder().items()
        return {token: entry.content for token, entry in added if not entry.special}

    def to_json(self) -> str:
        """The text of its `tokenizer.json`."""
        return str(self._backend.to_str())

    def save(self, path: Path) -> None:
        """Write a Hugging Face `tokenizer.json`; `StorageError` if the disk does not take it."""
        try:
            write_whole(path, self.to_json())
        except OSError as cause:
            raise StorageError(
                f"{path}: cannot be written: {cause.strerror or cause}.",
                remedy="Free some space, or name another folder.",
            ) from None


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE of at most `vocab_size` ids, fewer if `texts` give no more merges.

    Every byte is in the vocabulary, so any text can be encoded and decodes to itself. The same
    texts give the same tokenizer. `TokenizerError` if `vocab_size` is below `MIN_VOCAB_SIZE`.
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, trainers

    if vocab_size < MIN_VOCAB_SIZE:
        raise TokenizerError(
            f"A vocabulary of {vocab_size} has no room for all bytes and the end of text.",
            remedy=f"Set data.vocab_size to {MIN_VOCAB_SIZE} or more.",
        )
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    fed(lambda given: backend.train_from_iterator(given, trainer), texts)
    backend.encode_special_tokens = True
    return Tokenizer(backend, end_of_text=0)


def load_tokenizer(path: Path, expected_digest: str | None = None) -> Tokenizer:
    """The tokenizer of a Hugging Face `tokenizer.json`.

    Padding and truncation that the file asks for are switched off. `TokenizerError` if the file is
    missing, is no tokenizer, has no end-of-text token, or has not the `expected_digest` of a run.
    """
    from tokenizers import Tokenizer as Backend

    remedy = "Name the tokenizer.json of a Hugging Face model, or leave data.tokenizer out."
    try:
        backend = Backend.from_str(path.read_text(encoding="utf-8"))
    except OSError as cause:
        reason = cause.strerror or str(cause)
        raise TokenizerError(f"{path}: cannot be read: {reason}.", remedy=remedy) from None
    except Exception as cause:  # the library raises bare `Exception` for a bad file
        raise TokenizerError(f"{path}: not a tokenizer: {cause}.", remedy=remedy) from None
    backend.no_padding()
    backend.no_truncation()
    backend.encode_special_tokens = True
    known = [backend.token_to_id(name) for name in _END_OF_TEXT_NAMES]
    end_of_text = next((token for token in known if token is not None), None)
    if end_of_text is None:
        names = ", ".join(_END_OF_TEXT_NAMES)
        raise TokenizerError(
            f"{path}: has no token that ends a document (looked for {names}).", remedy=remedy
        )
    tokenizer = Tokenizer(backend, end_of_text)
    if expected_digest is not None:
        require_digest(path, tokenizer.digest, expected_digest)
    return tokenizer


def tokenizer_of_json(text: str, end_of_text: int) -> Tokenizer:
    """The tokenizer that `to_json` gave, as it was or changed."""
    from tokenizers import Tokenizer as Backend

    backend = Backend.from_str(text)
    backend.encode_special_tokens = True
    return Tokenizer(backend, end_of_text)


def require_digest(path: Path, found: str, expected: str) -> None:
    """`TokenizerError` if the tokenizer at `path` is not the one that a run was made with."""
    if found != expected:
        raise TokenizerError(
            f"{path}: is not the tokenizer of this run ({found[:12]}, expected {expected[:12]}).",
            remedy="Use the run's own tokenizer.json, or start a new run.",
        )


def canonical_digest(text: str) -> str:
    """sha256 (hex) of a JSON text, whatever its key order and white space."""
    canonical = json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def token_bytes(tokenizer: Tokenizer) -> NDArray[np.float64]:
    """[vocab_size] bytes of text that each id stands for; special tokens stand for none.

    Exact for a byte-level BPE, whose vocabulary spells each byte as one character: the sum over
    the ids of a text is its UTF-8 length. For other tokenizers it is only the length of the
    spelling; `prepare` checks the sums and says so where they are wrong.
    """
    table = np.zeros(tokenizer.vocab_size, dtype=np.float64)
    for token, text in tokenizer.token_texts().items():
        table[token] = len(text)
    for token, text in tokenizer.added_texts().items():
        table[token] = len(text.encode("utf-8"))
    table[tokenizer.end_of_text] = 0
    return table
