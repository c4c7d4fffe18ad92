"""The run folder: never overwritten, read back as written, and a broken one is said to be so."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from motley.cluster import Cluster, parse_cluster
from motley.data import PreparedData, prepare
from motley.errors import (
    MotleyError,
    PlanMismatchError,
    RunFolderError,
    StorageError,
    TokenizerError,
)
from motley.plan.plan import Plan, Replica, Stage
from motley.recipe import Recipe, parse_recipe
from motley.train.folder import RunFolder, create_run_folder, open_run_folder
from motley.train.prepare import next_run_path

RECIPE: Recipe = parse_recipe({"model": {"layers": 2, "width": 32, "heads": 4, "vocab_size": 300}})
CLUSTER: Cluster = parse_cluster(
    {
        "chip": [
            {
                "name": "a", "kind": "k", "count": 2, "flops_per_s": {"fp32": 1e9},
                "memory_bytes": 1e9, "memory_bandwidth_bytes_per_s": 1e9, "usd_per_hour": 0.5,
            }
        ],
        "link": [{"between": ["a-0", "a-1"], "bandwidth_bytes_per_s": 1e8}],
    }
)  # fmt: skip
PLAN = Plan(
    recipe_digest=RECIPE.digest,
    cluster_digest=CLUSTER.digest,
    replicas=(
        Replica(
            stages=(
                Stage(chips=("a-1",), first_layer=0, last_layer=2, precision="fp32"),
                Stage(
                    chips=("a-0",), first_layer=2, last_layer=4, precision="fp32", recompute="full"
                ),
            ),
            num_samples=32,
            micro_batch_size=5,
        ),
    ),
    reasons=("because",),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    base = tmp_path_factory.mktemp("data")
    for number in range(20):
        (base / f"{number}.txt").write_text(f"some text, number {number}\n" * 20)
    return prepare((str(base),), None, 300, 0.2, base / ".cache", lambda text: None)


@pytest.fixture
def written(tmp_path: Path, data: PreparedData) -> RunFolder:
    folder = create_run_folder(tmp_path / "runs" / "first")
    folder.write(RECIPE, CLUSTER, PLAN, data.folder)
    return folder


def test_what_is_written_is_read_back(written: RunFolder, data: PreparedData) -> None:
    folder = open_run_folder(written.path)
    assert folder.recipe() == RECIPE
    assert folder.cluster() == CLUSTER
    assert folder.plan() == PLAN
    assert folder.data_folder() == data.folder
    assert folder.data().key == data.index.key
    assert folder.data().source_digest == data.index.source_digest
    assert folder.tokenizer().digest == data.tokenizer.digest
    assert [folder.plan_chip(rank).name for rank in (0, 1)] == ["a-1", "a-0"]
    assert not list(folder.path.glob("*.partial"))


def test_a_run_is_never_overwritten(written: RunFolder) -> None:
    with pytest.raises(RunFolderError, match="exists already") as caught:
        create_run_folder(written.path)
    assert f"--resume {written.path}" in caught.value.remedy
    assert written.recipe() == RECIPE


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="exists already"):
        create_run_folder(tmp_path)
    with pytest.raises(RunFolderError, match="exists already"):
        create_run_folder(tmp_path / "thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_empty_folder_may_become_a_run(tmp_path: Path) -> None:
    assert create_run_folder(tmp_path).path == tmp_path


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be made"):
        create_run_folder(tmp_path / "file" / "run")


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is not a run: no such folder"):
        open_run_folder(tmp_path / "nope")
    with pytest.raises(RunFolderError, match=r"is not a run: there is no recipe\.json in it"):
        open_run_folder(tmp_path)


READERS = {
    "recipe.json": RunFolder.recipe,
    "cluster.json": RunFolder.cluster,
    "plan.json": RunFolder.plan,
    "data.json": RunFolder.data_folder,
}


@pytest.mark.parametrize("name", READERS)
def test_a_file_that_was_cut_off_anywhere_is_an_error_of_ours(
    written: RunFolder, name: str
) -> None:
    path = written.path / name
    text = path.read_text()
    for length in range(0, len(text.rstrip()), 7):
        path.write_text(text[:length])
        with pytest.raises((RunFolderError, PlanMismatchError), match=name):
            READERS[name](written)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("content", [b"[]", b"3", b"null", b'{"what": 1}', b"\xff\xfe", b"{}"])
def test_a_foreign_file_is_an_error_of_ours(written: RunFolder, name: str, content: bytes) -> None:
    (written.path / name).write_bytes(content)
    with pytest.raises(MotleyError, match=name):
        READERS[name](written)


@pytest.mark.parametrize("name", READERS)
def test_a_missing_file_is_an_error_of_ours(written: RunFolder, name: str) -> None:
    (written.path / name).unlink()
    with pytest.raises(MotleyError, match=name):
        READERS[name](written)


def test_a_run_that_is_older_than_its_tokenizer(written: RunFolder, data: PreparedData) -> None:
    written.tokenizer_file.unlink()
    (written.path / "data.json").write_text(json.dumps({"folder": str(data.folder)}))
    assert written.data().key is None
    assert written.tokenizer().digest == data.tokenizer.digest


def test_a_tokenizer_of_another_run(written: RunFolder) -> None:
    table = json.loads(written.tokenizer_file.read_text())
    table["version"] = "another"
    written.tokenizer_file.write_text(json.dumps(table))
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        written.tokenizer()


def test_a_disk_that_takes_nothing(tmp_path: Path, data: PreparedData) -> None:
    folder = RunFolder(tmp_path / "gone")
    with pytest.raises(StorageError, match="cannot be written"):
        folder.write(RECIPE, CLUSTER, PLAN, data.folder)


def test_writing_again_replaces_whole_files(written: RunFolder, data: PreparedData) -> None:
    """A resume writes its new plan; a reader sees the old or the new one, never a part."""
    inode = os.stat(written.path / "plan.json").st_ino
    written.write(RECIPE, CLUSTER, Plan(**{**vars(PLAN), "reasons": ("new",)}), data.folder)
    assert written.plan().reasons == ("new",)
    assert os.stat(written.path / "plan.json").st_ino != inode


def test_the_files_are_readable_text(written: RunFolder) -> None:
    for name in READERS:
        text = (written.path / name).read_text()
        assert text.endswith("\n")
        assert json.loads(text)
        assert len(text.splitlines()) > 1


def test_the_next_run_takes_the_first_free_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert next_run_path("demo") == Path("runs/demo")
    for name in ("demo", "demo-2"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert next_run_path("demo") == Path("runs/demo-3")
