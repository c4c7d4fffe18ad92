"""A run is whole by itself: it outlives the cache of prepared text, and may be moved."""

from __future__ import annotations

import dataclasses
import email
import json
import shutil
from pathlib import Path

import pytest

import jobs
from motley.data import PreparedData
from motley.data.tokenizer import canonical_digest
from motley.train.folder import RunFolder, open_run_folder
from motley.train.launch import start
from motley.train.prepare import TEXT_CHANGED, cache_folder, new_run, resume_run
from motley.train.trained import load_model

RECIPE = jobs.recipe(schedule={"steps": 2, "warmup_steps": 1, "decay": "constant"})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of two steps over a text that is its own."""
    base = tmp_path_factory.mktemp("moved")
    for module in (json, email):
        source = Path(module.__file__ or "").parent
        shutil.copytree(source, base / "text" / source.name)
    data = dataclasses.replace(RECIPE.data, corpus=(str(base / "text"),))
    recipe = dataclasses.replace(RECIPE, data=data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(base / "cache"))
        folder, _ = new_run(recipe, jobs.cluster("fp32"), None, base / "run", lambda text: None)
    start(folder).finish()
    return folder


@pytest.fixture
def run(finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A copy of it, with a text and a cache that a test may change."""
    base = tmp_path / "base"
    shutil.copytree(finished.path.parent, base)
    monkeypatch.setenv("XDG_CACHE_HOME", str(base / "cache"))
    folder = RunFolder(base / "run")
    change(folder.path / "data.json", folder=str(cache_folder() / folder.data_folder().name))
    data = folder.recipe().to_dict()["data"]
    change(folder.recipe_file, data=data | {"corpus": [str(base / "text")]})
    return folder


def change(path: Path, **values: object) -> str:
    """Other values in a table; its text."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return path.read_text()


def resumed(folder: RunFolder) -> list[str]:
    """Makes it ready to go on; what was said."""
    said: list[str] = []
    resume_run(folder.path, None, None, said.append)
    return said


def test_a_copied_run_is_sampled_without_cache_and_text(run: RunFolder, tmp_path: Path) -> None:
    before, tokenizer = load_model(run, pytest.fail)
    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy)
    shutil.rmtree(run.path.parent)
    model, own = load_model(open_run_folder(copy), pytest.fail)
    assert own.digest == tokenizer.digest
    assert all(each.equal(before.state()[name]) for name, each in model.state().items())


def test_the_same_text_gives_the_same_shards(run: RunFolder) -> None:
    """Under the same key, which a selection of samples was made for."""
    before, shards = run.data(), (run.data_folder() / "train-00000.bin").read_bytes()
    shutil.rmtree(cache_folder())
    said = resumed(run)
    assert any("Preparing the text again" in text for text in said)
    assert TEXT_CHANGED not in said
    assert dataclasses.replace(run.data(), folder=before.folder) == before
    assert run.data_folder().parent == cache_folder()
    assert (run.data_folder() / "train-00000.bin").read_bytes() == shards


@pytest.mark.parametrize("is_given", [False, True], ids=["trained", "given"])
def test_changed_text_is_said_and_read_with_the_runs_own_tokenizer(
    run: RunFolder, is_given: bool
) -> None:
    digest = run.tokenizer().digest
    if is_given:
        data = run.recipe().to_dict()["data"]
        change(run.recipe_file, data=data | {"tokenizer": str(run.path / "gone.json")})
    shutil.rmtree(cache_folder())
    alter_text(run)
    assert resumed(run).count(TEXT_CHANGED) == 1
    assert [event["text"] for event in jobs.events(run, "message")].count(TEXT_CHANGED) == 1
    assert run.tokenizer().digest == digest
    assert PreparedData.load(run.data_folder()).index.tokenizer_digest == digest
    assert TEXT_CHANGED not in resumed(run)


def alter_text(run: RunFolder) -> None:
    for file in (run.path.parent / "text").rglob("*.py"):
        file.write_text(file.read_text().replace("self", "myself") + "\n# a new line\n")


def test_weights_go_on_over_changed_text(run: RunFolder) -> None:
    shutil.rmtree(cache_folder())
    alter_text(run)
    change(run.recipe_file, schedule=run.recipe().to_dict()["schedule"] | {"steps": 3})
    folder, _ = resume_run(run.path, jobs.cluster("fp32"), None, lambda text: None)
    start(folder).finish()
    assert jobs.events(run, "run_started")[-1]["resumed_from"] == 2
    assert list(jobs.losses(run)) == [1, 2, 3]


def test_a_run_without_its_tokenizer_has_that_of_the_cache(run: RunFolder) -> None:
    run.tokenizer_file.unlink()
    (run.path / "data.json").write_text(json.dumps({"folder": str(run.data_folder())}))
    load_model(run, pytest.fail)
    resume_run(run.path, None, None, pytest.fail)
    assert run.data().tokenizer_digest == run.tokenizer().digest
    shutil.rmtree(cache_folder())
    load_model(run, pytest.fail)


def test_data_of_another_tokenizer_in_the_cache_is_left_alone(run: RunFolder) -> None:
    """As another version of the library of tokenizers may train one of the same text."""
    shards = run.data_folder()
    tokenizer = change(shards / "tokenizer.json", version="another")
    change(shards / "index.json", tokenizer_digest=canonical_digest(tokenizer))
    resumed(run)
    assert run.data_folder() != shards
    assert run.data_folder().name.partition("-")[0] == shards.name.partition("-")[0]
    assert shards.is_dir()
