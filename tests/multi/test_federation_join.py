"""Parties that train for real: processes, keys and a store of their own, as the command has it."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path

import psutil
import pytest

import jobs
from motley.data import PreparedData
from motley.errors import CharterError, IdentityError, RecipeError
from motley.events import EventTail
from motley.federation.charter.terms import OuterConfig, RoundTerms, Terms
from motley.federation.codec import CodecConfig
from motley.federation.keys.identity import holding, new_identity, save_identity
from motley.federation.log.view import View
from motley.federation.party.joining import WORKER, join
from motley.federation.party.party_folder import PartyConfig
from motley.federation.simulate import found_simulated, simulate
from motley.federation.storage.store import memory_store, open_store
from motley.recipe import Recipe
from motley.train.folder import RunFolder
from motley.train.launch import Job, start


def terms(**changes: float) -> Terms:
    usual = {"local_steps": 6, "delay_steps": 2, "quorum": 2, "reviews": 2, "grace_s": 4.0}
    return Terms(
        round=RoundTerms(**{**usual, **changes}),  # type: ignore[arg-type]
        codec=CodecConfig(kind="topk"),
        outer=OuterConfig(kind="average", learning_rate=1.0),
    )


def shared(recipe: Recipe, rounds: int) -> Recipe:
    steps = dataclasses.replace(recipe.schedule, steps=rounds * 6)
    return dataclasses.replace(recipe, schedule=steps)


def federation(
    base: Path, recipe: Recipe, data: PreparedData, chosen: Terms, names: tuple[str, ...]
) -> dict[str, PartyConfig]:
    """A federation in a folder store, and how each of its parties reaches it."""
    identities = [new_identity(name) for name in names]
    for each in identities:
        save_identity(each, base / f"{each.party}.key")
    store = base / "store"
    digest = found_simulated(open_store(str(store), create=True), recipe, data, chosen, identities)
    return {
        name: PartyConfig(store=str(store), federation=digest[:16], key=str(base / f"{name}.key"))
        for name in names
    }


def party(base: Path, name: str, config: PartyConfig, recipe: Recipe, chips: int) -> RunFolder:
    """All have one text and one seed, as two who follow the same page do."""
    cluster = jobs.cluster(*["fp32"] * chips)
    return join(config, recipe, cluster, base / name, lambda text: None)


def wait_for_round(job: Job, count: int) -> None:
    tail = EventTail(job.folder.events)
    while count > 0:
        ended = job.wait(0.05)
        count -= sum(event["event"] == "federation_round" for event in tail.read())
        assert count <= 0 or not ended, job.failure()


def test_two_parties_on_unlike_chips_get_the_same_parameters(
    small: tuple[Recipe, PreparedData], tmp_path: Path
) -> None:
    recipe, data = shared(small[0], 3), small[1]
    configs = federation(tmp_path, recipe, data, terms(), ("lab-a", "lab-bee"))
    folders = [
        party(tmp_path, name, config, recipe, chips)
        for chips, (name, config) in enumerate(configs.items(), start=1)
    ]
    running = [start(folder, WORKER) for folder in folders]
    for job in running:
        job.finish()
    rounds = [jobs.events(folder, "federation_round") for folder in folders]
    assert [event["round"] for event in rounds[0]] == [0, 1, 2]
    assert [event["digest"] for event in rounds[0]] == [event["digest"] for event in rounds[1]]
    assert all(len(event["accepted"]) == 2 for event in rounds[0])
    assert jobs.events(folders[0], "run_finished")[-1]["reason"] == "done"
    assert all(not event["rejected"] for event in rounds[0])
    last = [jobs.events(folder, "validation")[-1]["loss"] for folder in folders]
    assert last[0] == pytest.approx(last[1], rel=1e-5)


def test_a_killed_party_comes_back_and_counts_again(
    small: tuple[Recipe, PreparedData], tmp_path: Path
) -> None:
    recipe, data = shared(small[0], 12), small[1]
    chosen = terms(quorum=2, reviews=1, grace_s=2.0)
    configs = federation(tmp_path, recipe, data, chosen, ("lab-a", "lab-bee"))
    folders = {name: party(tmp_path, name, config, recipe, 1) for name, config in configs.items()}
    running = {name: start(folder, WORKER) for name, folder in folders.items()}
    wait_for_round(running["lab-bee"], 1)
    for process in psutil.Process(running["lab-bee"].process.pid).children(recursive=True):
        process.send_signal(signal.SIGKILL)
    running["lab-bee"].wait(30.0)
    again = start(party(tmp_path, "lab-bee", configs["lab-bee"], recipe, 1), WORKER)
    again.finish()
    running["lab-a"].finish()
    view = View(open_store(configs["lab-a"].store))
    view.refresh()
    assert len(view.chain.sealed) == 12
    decided = [
        (each.update.round, each.update.party)
        for sealed in view.chain.sealed
        for each in (*sealed.accepted, *sealed.rejected)
    ]
    assert len(decided) == len(set(decided))
    after = [
        {event["round"]: event["digest"] for event in jobs.events(folder, "federation_round")}
        for folder in folders.values()
    ]
    both = after[0].keys() & after[1].keys()
    assert both
    assert all(after[0][round_] == after[1][round_] for round_ in both)


def test_who_cannot_join_is_told_why(small: tuple[Recipe, PreparedData], tmp_path: Path) -> None:
    recipe, data = shared(small[0], 3), small[1]
    configs = federation(tmp_path, recipe, data, terms(), ("lab-a", "lab-bee"))
    config = configs["lab-a"]
    other = dataclasses.replace(recipe.optimizer, learning_rate=0.5)
    with pytest.raises(RecipeError, match=r"optimizer\.learning_rate"):
        party(tmp_path, "x", config, dataclasses.replace(recipe, optimizer=other), 1)
    save_identity(new_identity("stranger"), tmp_path / "stranger.key")
    foreign = dataclasses.replace(config, key=str(tmp_path / "stranger.key"))
    with pytest.raises(IdentityError, match="'stranger' is no member"):
        party(tmp_path, "x", foreign, recipe, 1)
    with holding(Path(config.key)), pytest.raises(IdentityError, match="another process"):
        party(tmp_path, "x", config, recipe, 1)
    assert not (tmp_path / "x").exists()


def test_a_run_remembers_the_charter_that_it_joined(
    small: tuple[Recipe, PreparedData], tmp_path: Path
) -> None:
    recipe, data = shared(small[0], 3), small[1]
    config = federation(tmp_path, recipe, data, terms(), ("lab-a", "lab-bee"))["lab-a"]
    said: list[str] = []

    def joined(given: str, store: str = config.store) -> None:
        said.clear()
        asked = dataclasses.replace(config, federation=given, store=store)
        join(asked, recipe, jobs.cluster("fp32"), tmp_path / "lab-a", said.append)

    printed = f"The charter's fingerprint is {config.federation}"
    joined("")
    assert any(text.startswith(f"{printed}. WARNING: it was held against") for text in said)
    joined("")
    assert f"{printed}, as when this run began." in said
    joined(config.federation)
    assert f"{printed}, as you gave it." in said
    with pytest.raises(CharterError, match="is no fingerprint"):
        joined(config.federation[:4])
    (tmp_path / "other").mkdir()
    other = federation(tmp_path / "other", recipe, data, terms(), ("lab-a", "lab-bee"))["lab-a"]
    with pytest.raises(CharterError, match=f"another charter: .* not {config.federation}"):
        joined("", other.store)


def test_who_asks_for_another_vocabulary_is_told_that_it_is_not_used(
    small: tuple[Recipe, PreparedData], tmp_path: Path
) -> None:
    recipe, data = shared(small[0], 3), small[1]
    config = federation(tmp_path, recipe, data, terms(), ("lab-a", "lab-bee"))["lab-a"]
    own = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, vocab_size=9999))
    said: list[str] = []
    folder = join(config, own, jobs.cluster("fp32"), tmp_path / "lab-a", said.append)
    assert any(text.startswith("data.vocab_size = 9999 is not used") for text in said)
    assert folder.recipe().model.vocab_size == recipe.model.vocab_size


def test_a_simulated_federation_learns() -> None:
    result = simulate(memory_store(), 3, 3, 4, lambda text: None)
    losses = [each["loss"] for each in result["rounds"]]
    assert losses[-1] < losses[0]
    assert [each["accepted"] for each in result["rounds"]] == [3, 3, 3]
