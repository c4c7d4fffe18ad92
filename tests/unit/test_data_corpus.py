"""Sources to documents: what is taken, what is left out, what is held out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import motley.data
from motley.data.corpus import (
    PART_SIZES,
    choose_split,
    hash_share,
    is_held_out,
    read_corpus,
    read_documents,
)
from motley.data.files import CorpusFile, content_digest, list_files
from motley.errors import CorpusError

GOLDEN_HELD_OUT = [16, 30, 40, 62]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_public_names_are_sorted_and_exist() -> None:
    names = motley.data.__all__
    assert names == sorted(names, key=lambda name: (not name.isupper(), name))
    assert all(hasattr(motley.data, name) for name in names)


def test_import_needs_neither_torch_nor_tokenizers() -> None:
    code = "import sys, motley.data; print(*{'torch', 'tokenizers'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.stdout.strip(), result.stderr) == ("", "")


def test_folder_is_read_in_name_order_without_hidden_binary_empty_and_copies(
    tmp_path: Path,
) -> None:
    write(tmp_path / "b.txt", "bee\r\n")
    write(tmp_path / "a" / "z.md", "zed é")
    write(tmp_path / "a.txt", "ay")
    write(tmp_path / "copy.txt", "ay")
    write(tmp_path / "empty.txt", "")
    write(tmp_path / "image.png", b"\x89PNG\x00\x01")
    write(tmp_path / "latin.txt", "é".encode("latin-1"))
    write(tmp_path / ".git" / "config", "hidden")
    write(tmp_path / ".hidden", "hidden")
    os.symlink(tmp_path / "nowhere", tmp_path / "broken.txt")
    messages: list[str] = []
    documents = list(read_corpus((str(tmp_path),), report=messages.append))
    assert [(document.path, document.text) for document in documents] == [
        ("a.txt", "ay"),
        ("a/z.md", "zed é"),
        ("b.txt", "bee\r\n"),
    ]
    assert messages == [
        f"{tmp_path}: 3 text files; left out because they are: "
        "1 a copy, 1 binary, 1 empty, 1 not UTF-8."
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"a\0b", "is binary"), (b"\xff\xfea\0", "is binary"), (b"", "is empty"), (b"\xe9", "UTF-8")],
)
def test_single_file_that_is_no_text_is_an_error(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    path = write(tmp_path / "file.txt", content)
    with pytest.raises(CorpusError, match=problem) as caught:
        read_corpus((str(path),))
    assert caught.value.remedy


def test_character_cut_off_at_the_end_is_not_utf8(tmp_path: Path) -> None:
    path = write(tmp_path / "file.txt", "é".encode()[:1])
    with pytest.raises(CorpusError, match="not UTF-8"):
        read_corpus((str(path),))


def test_missing_empty_and_odd_sources_are_errors(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="names no text"):
        read_corpus(())
    with pytest.raises(CorpusError, match="no such file or folder"):
        read_corpus((str(tmp_path / "missing"),))
    with pytest.raises(CorpusError, match="holds no text file"):
        read_corpus((str(tmp_path),))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CorpusError, match="neither a file nor a folder"):
        read_corpus((str(tmp_path / "pipe"),))


def test_jsonl_gives_a_document_per_line(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.jsonl", '{"text": "one\\n"}\n\n{"id": 1, "text": "two"}\n{"text":""}'
    )
    documents = list(read_corpus((str(path),)))
    assert [(document.path, document.text) for document in documents] == [
        ("x.jsonl#1", "one\n"),
        ("x.jsonl#3", "two"),
    ]


@pytest.mark.parametrize(
    "line", ["{", '{"body": "x"}', '{"text": 3}', '["text"]', '{"text": "\\ud800"}', "[" * 10**5]
)
def test_wrong_jsonl_line_is_named(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "x.jsonl", f'{{"text": "good"}}\n{line}\n')
    with pytest.raises(CorpusError, match=r"x\.jsonl, line 2: not a document"):
        list(read_corpus((str(path),)))


def test_standard_library_is_sorted_source_without_installed_packages() -> None:
    documents = list(islice(read_corpus(("python-stdlib",)), 50))
    names = [document.path for document in documents]
    assert names == sorted(names)
    assert all(name.endswith(".py") and "site-packages" not in name for name in names)
    root = Path(sysconfig.get_paths()["stdlib"])
    assert documents[0].text.encode() == (root / names[0]).read_bytes()


def test_held_out_names_are_fixed_for_ever() -> None:
    """These files are held out on every machine: a changed hash would mix old runs' splits."""
    names = [f"json/file{number}.py" for number in range(100)]
    held_out = [number for number, name in enumerate(names) if is_held_out(name, 0.05)]
    assert held_out == GOLDEN_HELD_OUT


def test_held_out_share_is_met_and_grows_without_moving_files() -> None:
    names = [f"file{number}" for number in range(20_000)]
    small = {name for name in names if is_held_out(name, 0.05)}
    assert small < {name for name in names if is_held_out(name, 0.2)}
    assert abs(len(small) / len(names) - 0.05) < 0.005
    assert all(0 <= hash_share(name) < 1 for name in names[:100])


@settings(max_examples=60, deadline=None)
@given(
    text=st.lists(
        st.sampled_from(["word ", "\n", "\n\n", "é", "\U0001f600", "x" * 400, "ü" * 900])
    ).map("".join)
)
def test_parts_join_to_the_file_and_stay_within_their_size(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    path = write(folder / "x.txt", text or "x")
    for part_bytes in (1024, 2048):
        parts = list(read_corpus((str(path),), part_bytes))
        assert "".join(part.text for part in parts) == (text or "x")
        assert all(0 < part.num_bytes <= part_bytes for part in parts)
        if len(parts) > 1:
            assert [part.path for part in parts] == [f"x.txt#{n}" for n in range(len(parts))]


def test_long_file_is_cut_at_paragraphs(tmp_path: Path) -> None:
    paragraph = "one line\nanother line\n" * 10 + "\n"
    path = write(tmp_path / "x.txt", paragraph * 40)
    parts = list(read_corpus((str(path),), 4096))
    assert all(part.text.endswith("\n\n") for part in parts)


def test_many_files_stay_whole_and_few_are_cut(tmp_path: Path) -> None:
    many, single = tmp_path / "many", tmp_path / "single.txt"
    for number in range(200):
        write(many / f"{number}.txt", f"file {number}\n" * 50)
    write(single, "".join(f"paragraph {number}\n\n" for number in range(20_000)))
    split = choose_split(list_files((str(many),)), 0.1)
    assert split.part_bytes == PART_SIZES[0]
    split = choose_split(list_files((str(single),)), 0.1)
    assert split.part_bytes < PART_SIZES[0]
    assert 0.1 / 3 <= split.held_out_share <= 0.3
    assert split.train_bytes + split.held_out_bytes == single.stat().st_size


def test_files_are_cut_where_chance_holds_out_too_little(tmp_path: Path) -> None:
    """Whole files would hold out 2 bytes of 400 kB: a validation of nothing."""
    names = [f"{number}.txt" for number in range(100)]
    small = next(name for name in names if is_held_out(name, 0.1))
    large = next(name for name in names if not is_held_out(name, 0.1))
    write(tmp_path / small, "hi")
    write(tmp_path / large, "".join(f"paragraph {number}\n\n" for number in range(20_000)))
    split = choose_split(list_files((str(tmp_path),)), 0.1)
    assert 0.1 / 3 <= split.held_out_share <= 0.3


def test_corpus_too_small_to_split_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "x.txt", "hello")
    with pytest.raises(CorpusError, match="too small") as caught:
        choose_split(list_files((str(path),)), 0.05)
    assert "held_out_share" in caught.value.remedy


@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
@pytest.mark.parametrize("change", ["shrunk", "rewritten", "gone"])
def test_file_that_changes_after_it_was_listed_is_an_error(
    tmp_path: Path, suffix: str, change: str
) -> None:
    lines = "".join(
        json.dumps({"text": f"line {n} é"}, ensure_ascii=False) + "\n" for n in range(9)
    )
    path = write(tmp_path / f"x.{suffix}", lines)
    files = list_files((str(path),))
    content = path.read_bytes()
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-30] if change == "shrunk" else content.replace(b"4", b"5"))
    with pytest.raises(CorpusError, match=r"changed while|cannot be read|not a document"):
        list(read_documents(files, 1024))


def test_digest_depends_on_names_and_content_but_not_on_the_root(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write(tmp_path / folder / "a.txt", "same")
        write(tmp_path / folder / "b.txt", "text")
    one, two = (list_files((str(tmp_path / folder),)) for folder in ("one", "two"))
    assert content_digest(one) == content_digest(two)
    write(tmp_path / "two" / "b.txt", "next")
    assert content_digest(one) != content_digest(list_files((str(tmp_path / "two"),)))
    renamed = [CorpusFile(file.path, "c.txt", file.num_bytes, file.sha256) for file in one]
    assert content_digest(one) != content_digest(renamed)
