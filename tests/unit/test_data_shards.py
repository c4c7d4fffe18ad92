"""Preparing data: packing, the cache, and every fault that a disk or another process can bring."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from motley.data import PreparedData, Report, TokenStream, prepare, train_tokenizer
from motley.data.cache import temporary_folder
from motley.data.corpus import is_held_out, read_corpus
from motley.data.files import silent
from motley.data.prepared import INDEX_FILE, TOKEN_BYTES_FILE, TOKENIZER_FILE
from motley.errors import CorpusError, StorageError, TokenizerError

LIBRARY = Path(sysconfig.get_paths()["stdlib"])
SOURCES = (str(LIBRARY / "json"), str(LIBRARY / "email" / "mime"))
SHARE = 0.1


def make(
    cache: Path,
    report: Report = silent,
    *,
    sources: tuple[str, ...] = SOURCES,
    tokenizer_path: Path | None = None,
    vocab_size: int = 400,
    held_out_share: float = SHARE,
    shard_tokens: int = 10_000,
) -> PreparedData:
    return prepare(
        sources,
        tokenizer_path,
        vocab_size,
        held_out_share,
        cache,
        report,
        shard_tokens=shard_tokens,
    )


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the data of `SOURCES`; copy it before breaking it."""
    cache = tmp_path_factory.mktemp("pristine") / "cache"
    make(cache)
    return cache


@pytest.fixture
def cache(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "cache"))


def only_folder(cache: Path) -> Path:
    (folder,) = cache.iterdir()
    return folder


def unpack(data: PreparedData, stream: TokenStream) -> list[str]:
    """The documents of a stream, decoded."""
    tokens = stream.read(0, stream.num_tokens)
    ends = np.flatnonzero(tokens == data.index.end_of_text)
    assert ends[-1] == stream.num_tokens - 1
    pieces = np.split(tokens, ends + 1)[:-1]
    return [data.tokenizer.decode(piece[:-1].tolist()) for piece in pieces]


def test_streams_hold_the_documents_of_their_split_in_order(pristine: Path) -> None:
    data = PreparedData.load(only_folder(pristine))
    documents = list(read_corpus(SOURCES, data.index.part_bytes))
    held_out = [document for document in documents if is_held_out(document.path, SHARE)]
    train = [document for document in documents if not is_held_out(document.path, SHARE)]
    for stream, expected in ((data.train, train), (data.held_out, held_out)):
        assert unpack(data, stream) == [document.text for document in expected]
        assert stream.num_documents == len(expected) > 0
        assert stream.num_bytes == sum(document.num_bytes for document in expected)
        tokens = stream.read(0, stream.num_tokens)
        assert data.token_bytes[tokens].sum() == stream.num_bytes
    assert len(data.train.paths) > 1
    assert data.index.bytes_exact
    assert data.tokenizer.vocab_size == data.index.vocab_size == 400


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer(["some text to merge, some more text"] * 9, 290).save(path)
    return path


@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(st.text(min_size=1) | st.just("<|endoftext|>"), min_size=2, max_size=30),
    shard_tokens=st.integers(10, 60),
)
def test_packing_loses_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    tokenizer_path: Path,
    texts: list[str],
    shard_tokens: int,
) -> None:
    folder = tmp_path_factory.mktemp("packing")
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    names = [f"texts.jsonl#{number}" for number in range(1, len(texts) + 1)]
    held_out = [text for name, text in zip(names, texts, strict=True) if is_held_out(name, 0.5)]
    train = [text for name, text in zip(names, texts, strict=True) if not is_held_out(name, 0.5)]
    assume(train and held_out)
    data = make(
        folder / "cache",
        sources=(str(path),),
        tokenizer_path=tokenizer_path,
        held_out_share=0.5,
        shard_tokens=shard_tokens,
    )
    assert unpack(data, data.train) == train
    assert unpack(data, data.held_out) == held_out
    assert data.index.bytes_exact


def test_second_call_takes_what_is_there(cache: Path) -> None:
    folder = only_folder(cache)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    messages: list[str] = []
    assert make(cache, messages.append).folder == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert any("made earlier from the same text" in message for message in messages)


def test_other_inputs_make_other_data(cache: Path) -> None:
    folder = only_folder(cache)
    others = {
        make(cache, vocab_size=300).folder,
        make(cache, held_out_share=0.2).folder,
        make(cache, sources=SOURCES[:1]).folder,
        folder,
    }
    assert set(cache.iterdir()) == others
    assert len(others) == 4
    assert make(cache).folder == folder


def truncate_shard(folder: Path) -> None:
    os.truncate(next(folder.glob("train-*.bin")), 1000)


def remove_shard(folder: Path) -> None:
    next(folder.glob("held-out-*.bin")).unlink()


def cut_index(folder: Path) -> None:
    os.truncate(folder / INDEX_FILE, 100)


def foreign_index(folder: Path) -> None:
    (folder / INDEX_FILE).write_text('{"metadata": {"total_size": 3}, "weight_map": {}}')


def newer_index(folder: Path) -> None:
    index = json.loads((folder / INDEX_FILE).read_text())
    (folder / INDEX_FILE).write_text(json.dumps({**index, "version": 999}))


def empty_index(folder: Path) -> None:
    index = json.loads((folder / INDEX_FILE).read_text())
    index["train"]["shard_tokens"] = []
    (folder / INDEX_FILE).write_text(json.dumps(index))


def other_text(folder: Path) -> None:
    index = json.loads((folder / INDEX_FILE).read_text())
    (folder / INDEX_FILE).write_text(json.dumps({**index, "key": "0" * 16}))


def remove_index(folder: Path) -> None:
    (folder / INDEX_FILE).unlink()


def binary_tokenizer(folder: Path) -> None:
    (folder / TOKENIZER_FILE).write_bytes(b"\xff\x00")


def other_tokenizer(folder: Path) -> None:
    train_tokenizer(["other text"], 260).save(folder / TOKENIZER_FILE)


def cut_table(folder: Path) -> None:
    os.truncate(folder / TOKEN_BYTES_FILE, 200)


def empty_table(folder: Path) -> None:
    os.truncate(folder / TOKEN_BYTES_FILE, 0)


def short_table(folder: Path) -> None:
    np.save(folder / TOKEN_BYTES_FILE, np.zeros(3))


DAMAGES = [
    truncate_shard, remove_shard, cut_index, foreign_index, newer_index, empty_index, remove_index,
    binary_tokenizer, other_tokenizer, cut_table, empty_table, short_table,
]  # fmt: skip


@pytest.mark.parametrize("damage", [*DAMAGES, other_text])
def test_damaged_data_is_found_and_made_again(cache: Path, damage: Callable[[Path], None]) -> None:
    folder = only_folder(cache)
    shards = {path.name: path.read_bytes() for path in folder.glob("*.bin")}
    damage(folder)
    if damage is not other_text:
        with pytest.raises((CorpusError, TokenizerError)):
            PreparedData.load(folder)
    messages: list[str] = []
    data = make(cache, messages.append)
    assert {path.name: path.read_bytes() for path in data.folder.glob("*.bin")} == shards
    assert only_folder(cache) == data.folder != folder
    assert any("It is removed and made again." in message for message in messages)


def test_data_of_another_tokenizer_is_refused(pristine: Path) -> None:
    folder = only_folder(pristine)
    digest = PreparedData.load(folder).index.tokenizer_digest
    assert PreparedData.load(folder, digest).tokenizer.digest == digest
    with pytest.raises(TokenizerError, match="is not the tokenizer of this run"):
        PreparedData.load(folder, "0" * 64)


def test_tokenizer_that_loses_bytes_falls_back_to_the_mean_with_a_message(tmp_path: Path) -> None:
    backend = Backend(models.WordLevel({"[UNK]": 0, "import": 1, "</s>": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(["</s>"])
    backend.save(str(tmp_path / "t.json"))
    messages: list[str] = []
    data = make(tmp_path / "cache", messages.append, tokenizer_path=tmp_path / "t.json")
    assert not data.index.bytes_exact
    assert any("mean of" in message for message in messages)
    tokens = data.held_out.read(0, data.held_out.num_tokens)
    assert data.token_bytes[tokens].sum() == pytest.approx(data.held_out.num_bytes, rel=1e-12)
    assert data.token_bytes[2] == 0


def test_tokenizer_that_makes_nothing_of_the_text_is_an_error(tmp_path: Path) -> None:
    backend = Backend(models.BPE())
    backend.add_special_tokens(["</s>"])
    backend.save(str(tmp_path / "t.json"))
    (tmp_path / "x.jsonl").write_text('{"text": "abc"}\n' * 20)
    with pytest.raises(TokenizerError, match="makes no tokens"):
        make(
            tmp_path / "cache",
            sources=(str(tmp_path / "x.jsonl"),),
            tokenizer_path=tmp_path / "t.json",
            held_out_share=0.5,
        )
    assert list((tmp_path / "cache").iterdir()) == []


def test_cache_that_is_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("not a folder")
    with pytest.raises(StorageError, match="cannot be written") as caught:
        make(tmp_path / "cache")
    assert "another disk" in caught.value.remedy


def test_wrong_line_deep_in_the_corpus_leaves_nothing_behind(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"document {number}"}) for number in range(100)]
    (tmp_path / "x.jsonl").write_text("\n".join([*lines, "{"]))
    with pytest.raises(CorpusError, match="line 101"):
        make(tmp_path / "cache", sources=(str(tmp_path / "x.jsonl"),))
    assert not list(tmp_path.glob("cache/*"))


SCRIPT = """
import os, resource, sys
from pathlib import Path
from motley.data import prepare
from motley.errors import StorageError
mode, cache, *sources = sys.argv[1:]
if mode.isdigit():
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(mode), int(mode)))
def report(message):
    if mode == "kill" and message.startswith("Tokenizer:"):
        os._exit(9)
try:
    data = prepare(tuple(sources), None, 400, 0.1, Path(cache), report, shard_tokens=10_000)
    print(data.folder, data.index.tokenizer_digest)
except StorageError as cause:
    print("StorageError", cause.message)
"""


def start(mode: str, cache: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", SCRIPT, mode, str(cache), *SOURCES]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )


@pytest.mark.parametrize("limit_bytes", [0, 2_000, 18_000])
def test_full_disk_is_a_storage_error_and_leaves_nothing(tmp_path: Path, limit_bytes: int) -> None:
    output, errors = start(str(limit_bytes), tmp_path / "cache").communicate(timeout=60)
    assert errors == ""
    assert output.startswith("StorageError")
    assert "cannot be written" in output
    assert list((tmp_path / "cache").iterdir()) == []


def test_processes_that_prepare_the_same_data_all_succeed(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    processes = [start("race", cache) for _ in range(3)]
    results = [process.communicate(timeout=60) for process in processes]
    assert [errors for _, errors in results] == ["", "", ""]
    assert len({output.split()[1] for output, _ in results}) == 1
    for output, _ in results:
        PreparedData.load(Path(output.split()[0]))
    assert not list(cache.glob(".partial-*"))


def test_killed_process_leaves_no_data_and_its_rest_is_removed_later(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    process = start("kill", cache)
    process.communicate(timeout=60)
    assert process.returncode == 9
    (left,) = cache.iterdir()
    assert left.name.startswith(".partial-")
    data = make(cache)
    assert left.exists()
    os.utime(left, (time.time() - 120,) * 2)
    make(cache, vocab_size=300)
    assert not left.exists()
    assert data.folder.exists()


def test_what_a_living_process_builds_is_never_removed(tmp_path: Path) -> None:
    with temporary_folder(tmp_path, "a test") as first:
        os.utime(first, (0, 0))
        with temporary_folder(tmp_path, "a test"):
            assert first.exists()
