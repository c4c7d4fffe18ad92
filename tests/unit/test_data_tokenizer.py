"""Tokenizers: trained ones lose no byte, foreign ones are checked."""

from __future__ import annotations

import inspect
import json
import json.decoder
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from motley.data import END_OF_TEXT, Tokenizer, load_tokenizer, token_bytes, train_tokenizer
from motley.errors import StorageError, TokenizerError

TEXT = inspect.getsource(json.decoder) + "# naïve\n"


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train_tokenizer([TEXT], 300)


@settings(max_examples=200, deadline=None)
@given(text=st.text() | st.binary().map(lambda data: data.decode("latin-1")))
def test_any_text_decodes_to_itself_and_its_bytes_add_up(trained: Tokenizer, text: str) -> None:
    ids = trained.encode(text)
    assert trained.decode(ids) == text
    assert token_bytes(trained)[ids].sum() == len(text.encode())
    assert trained.end_of_text not in ids


def test_special_token_in_a_text_is_plain_text(trained: Tokenizer) -> None:
    text = f"a{END_OF_TEXT}b"
    assert trained.end_of_text == 0
    assert 0 not in trained.encode(text)
    assert trained.encode_batch([text]) == [trained.encode(text)]
    assert trained.decode([*trained.encode(text), 0]) == text


def test_vocabulary_is_as_asked_or_smaller_if_the_text_is_poor(trained: Tokenizer) -> None:
    assert trained.vocab_size == 300
    assert train_tokenizer(["ab"], 300).vocab_size < 300
    assert train_tokenizer([], 257).vocab_size == 257
    assert token_bytes(trained).shape == (300,)
    with pytest.raises(TokenizerError, match="no room for all bytes"):
        train_tokenizer([TEXT], 256)


def test_training_is_deterministic(trained: Tokenizer) -> None:
    assert train_tokenizer([TEXT], 300).digest == trained.digest
    assert train_tokenizer([TEXT], 299).digest != trained.digest


def test_saved_tokenizer_is_the_same_when_loaded(trained: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    trained.save(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["tokenizer.json"]
    loaded = load_tokenizer(path, trained.digest)
    assert loaded.digest == trained.digest
    assert loaded.encode(TEXT + END_OF_TEXT) == trained.encode(TEXT + END_OF_TEXT)
    path.write_text(json.dumps(json.loads(path.read_text()), indent=4))
    assert load_tokenizer(path).digest == trained.digest


def test_tokenizer_of_another_run_is_refused(trained: Tokenizer, tmp_path: Path) -> None:
    trained.save(tmp_path / "tokenizer.json")
    with pytest.raises(TokenizerError, match="is not the tokenizer of this run"):
        load_tokenizer(tmp_path / "tokenizer.json", "0" * 64)


def test_save_where_nothing_can_be_written(trained: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written"):
        trained.save(tmp_path / "missing" / "tokenizer.json")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"model": 3}', b"[1, 2]"])
def test_file_that_is_no_tokenizer_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match="not a tokenizer") as caught:
        load_tokenizer(path)
    assert "data.tokenizer" in caught.value.remedy


def test_missing_tokenizer_and_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(TokenizerError, match="cannot be read"):
            load_tokenizer(path)


def test_tokenizer_without_end_of_text_is_refused(tmp_path: Path) -> None:
    Backend(models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "t.json"))
    with pytest.raises(TokenizerError, match="no token that ends a document"):
        load_tokenizer(tmp_path / "t.json")


def test_llama3_like_tokenizer_is_exact_and_not_truncated(tmp_path: Path) -> None:
    """A regex in front of byte-level BPE, with tokens added as plain text and ids with a gap."""
    backend = Backend(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}{1,3}|\s+|[^\s\p{L}\p{N}]+"), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([TEXT], trainer)
    backend.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>"])
    backend.add_tokens([AddedToken("JSONDecoder", normalized=False)])
    backend.enable_truncation(3)
    backend.enable_padding(length=8)
    backend.save(str(tmp_path / "t.json"))
    tokenizer = load_tokenizer(tmp_path / "t.json")
    ids = tokenizer.encode(TEXT)
    assert tokenizer.end_of_text == 281
    assert tokenizer.decode(ids) == TEXT
    assert tokenizer.encode_batch([TEXT, "a"]) == [ids, tokenizer.encode("a")]
    assert len(tokenizer.encode("JSONDecoder")) == 1
    table = token_bytes(tokenizer)
    assert table[ids].sum() == len(TEXT.encode())
    np.testing.assert_array_equal(table[[280, 281]], 0)
