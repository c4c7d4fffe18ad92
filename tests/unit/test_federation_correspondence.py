"""A party's correspondence: what it sends, keeps over a restart, and never waits for."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import pytest
import torch

from federation_cases import Clock, Federation, Forwarding, base_state, federation, terms
from motley.federation.amending import amend
from motley.federation.charter.terms import PrivacyConfig, Terms
from motley.federation.codec import CodecConfig
from motley.federation.log.ledger import ledger
from motley.federation.log.view import View
from motley.federation.party.correspondence import Correspondence
from motley.federation.party.privacy import epsilon
from motley.federation.party.rounds import Member
from motley.federation.party.trained import Trained
from motley.federation.storage.store import Store, memory_store


def trained(round_: int, seed: int) -> Trained:
    """Parameters that have moved from the base, much as those of others."""
    common = torch.Generator().manual_seed(7)
    own = torch.Generator().manual_seed(seed)
    local = {
        name: value
        + 0.1 * torch.randn(value.shape, generator=common)
        + 0.03 * torch.randn(value.shape, generator=own)
        for name, value in base_state(terms()).parameters.items()
    }
    return Trained(round=round_, local=local, tokens=100, steps=10, seconds=1.0, loss=2.0)


def line(
    made: Federation, name: str, store: Store | None = None, residuals: Path | None = None
) -> Correspondence:
    """A new process of a party."""
    member = Member(store or made.store, made.identities[name], made.digest, clock=made.clock)
    correspondence = Correspondence(member, chips={"cpu": 1}, residuals=residuals)
    correspondence.open()
    return correspondence


def run_round(lines: dict[str, Correspondence], clock: Clock, round_: int) -> None:
    for seed, each in enumerate(lines.values()):
        assert each.submit(trained(round_, seed))
    waiting = dict(lines)
    for _ in range(40):
        for name, each in list(waiting.items()):
            each.turn()
            if each.last_sealed is not None and each.last_sealed.round == round_:
                del waiting[name]
        if not waiting:
            return
        clock.wait(0.5)
    raise AssertionError(f"{sorted(waiting)} wait still")


class HeldSnapshots(Forwarding):
    """A store that takes no chunk of a snapshot until it may."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.may_go_on = threading.Event()
        self.tried = threading.Event()

    def put_new(self, key: str, data: bytes) -> bool:
        if threading.current_thread().name == "snapshot":
            self.tried.set()
            assert self.may_go_on.wait(60)
        return super().put_new(key, data)


def test_rounds_go_on_while_a_snapshot_is_on_its_way() -> None:
    held = HeldSnapshots(memory_store())
    made = federation("a", "b", store=held, chosen=terms(snapshot_every=1))
    lines = {name: line(made, name) for name in ("a", "b")}
    run_round(lines, made.clock, 0)
    assert held.tried.wait(60)
    for round_ in (1, 2):
        run_round(lines, made.clock, round_)
    busy = [each for each in lines.values() if not each.is_flushed()]
    assert busy
    held.may_go_on.set()
    while any(not each.is_flushed() for each in busy):
        for each in busy:
            each.turn()
    view = View(made.store)
    view.refresh()
    assert 1 in {snapshot.round for snapshot in view.snapshots()}


def test_a_rotation_passes_under_way_and_states_are_stored_under_the_key_in_force() -> None:
    made = federation("a", "b", chosen=terms(snapshot_every=1), encrypted=True)
    lines = {name: line(made, name) for name in ("a", "b")}
    amend(View(made.store), made.founder, "rotate")
    for round_ in range(3):
        run_round(lines, made.clock, round_)
        while any(not each.is_flushed() for each in lines.values()):
            for each in lines.values():
                each.turn()
    view = View(made.store)
    view.refresh()
    stored = view.snapshots()
    assert stored
    assert {snapshot.state.epoch for snapshot in stored} == {1}
    assert line(made, "a").state.digest() == lines["b"].state.digest()


def sparse_terms(**round_terms: object) -> Terms:
    usual = terms(**round_terms)
    return Terms(name="test", round=usual.round, codec=CodecConfig(kind="topk", density=1 / 64))


def payloads(made: Federation, round_: int) -> dict[str, str]:
    """Party to what its update of a round consists of."""
    view = View(made.store)
    view.refresh()
    return {
        each.party: each.payload.chunks[0].digest for each in view.chain.sealed[round_].updates()
    }


@pytest.mark.parametrize("restarts", [False, True])
def test_the_error_that_is_fed_back_survives_a_restart(tmp_path: Path, restarts: bool) -> None:
    made = federation("a", "b", chosen=sparse_terms())
    lines = {name: line(made, name, residuals=tmp_path / name) for name in ("a", "b")}
    for round_ in range(3):
        run_round(lines, made.clock, round_)
        if restarts:
            lines["a"] = line(made, "a", residuals=tmp_path / "a")
    undisturbed = federation("a", "b", chosen=sparse_terms())
    others = {name: line(undisturbed, name) for name in ("a", "b")}
    for round_ in range(3):
        run_round(others, undisturbed.clock, round_)
    assert payloads(made, 2) == payloads(undisturbed, 2)


def test_the_error_of_an_update_that_nobody_has_seen_is_not_fed_back(tmp_path: Path) -> None:
    made = federation("a", "b", chosen=sparse_terms())
    lines = {name: line(made, name, residuals=tmp_path / name) for name in ("a", "b")}
    run_round(lines, made.clock, 0)
    before = sorted((tmp_path / "a").iterdir())

    class Died(BaseException):
        pass

    class Dying(Forwarding):
        def put_new(self, key: str, data: bytes) -> bool:
            if "/updates/" in key:
                raise Died
            return super().put_new(key, data)

    dying = line(made, "a", store=Dying(made.store), residuals=tmp_path / "a")
    dying.submit(trained(1, seed=99))
    with pytest.raises(Died):
        dying.turn()
    assert len(list((tmp_path / "a").iterdir())) == len(before) + 1
    lines["a"] = line(made, "a", residuals=tmp_path / "a")
    run_round(lines, made.clock, 1)
    undisturbed = federation("a", "b", chosen=sparse_terms())
    others = {name: line(undisturbed, name) for name in ("a", "b")}
    for round_ in range(2):
        run_round(others, undisturbed.clock, round_)
    assert payloads(made, 1) == payloads(undisturbed, 1)


def own_payload(made: Federation, party: str, round_: int) -> str:
    """What a party's update of a round consists of, decided or not."""
    view = View(made.store)
    view.refresh()
    return view.updates(round_, view.chain.membership)[party].update.payload.chunks[0].digest


@pytest.mark.parametrize("staleness", [0, 2])
def test_the_error_of_a_late_update_survives_a_restart(tmp_path: Path, staleness: int) -> None:
    """No seal has decided it yet, or ever will, but it went out."""
    sent = []
    for restarts in (False, True):
        folder = tmp_path / str(restarts)
        made = federation("a", "b", "c", chosen=sparse_terms(staleness=staleness))
        lines = {name: line(made, name, residuals=folder / name) for name in ("a", "b", "c")}
        run_round(lines, made.clock, 0)
        assert lines["a"].submit(trained(1, seed=0))
        run_round({name: lines[name] for name in ("b", "c")}, made.clock, 1)
        assert lines["a"].turn()
        if restarts:
            lines["a"] = line(made, "a", residuals=folder / "a")
        assert lines["a"].submit(trained(2, seed=0))
        lines["a"].turn()
        sent.append([own_payload(made, "a", round_) for round_ in (1, 2)])
    assert sent[0] == sent[1]


def test_the_error_of_a_diverged_state_is_not_fed_back(tmp_path: Path) -> None:
    """The one before is: what it went into was refused."""
    sent = []
    for diverges in (False, True):
        folder = tmp_path / str(diverges)
        made = federation("a", "b", "c", chosen=sparse_terms())
        lines = {name: line(made, name, residuals=folder / name) for name in ("a", "b", "c")}
        run_round(lines, made.clock, 0)
        odd = lines["a"]
        if diverges:
            next(iter(odd.state.parameters.values())).add_(1)
            odd.state._digests.clear()
            assert odd.submit(trained(1, seed=0))
            odd.turn()
        run_round({name: lines[name] for name in ("b", "c")}, made.clock, 1)
        odd._or_anew(odd.turn)
        assert odd.submit(trained(2, seed=0))
        odd.turn()
        sent.append(own_payload(made, "a", 2))
    assert sent[0] == sent[1]


def test_the_privacy_spent_counts_what_no_seal_has_decided(tmp_path: Path) -> None:
    privacy = PrivacyConfig(clip_norm=1.0, noise_multiplier=50.0)
    made = federation(
        "a", "b", "c", chosen=dataclasses.replace(sparse_terms(staleness=0), privacy=privacy)
    )
    lines = {name: line(made, name) for name in ("a", "b", "c")}
    for round_ in range(3):
        assert lines["a"].submit(trained(round_, seed=0))
        run_round({name: lines[name] for name in ("b", "c")}, made.clock, round_)
        lines["a"].turn()  # publishes what is too late for its round
        lines["a"] = line(made, "a")
    view = View(made.store)
    view.refresh()
    assert not [each for each in view.chain.sealed if "a" in {u.party for u in each.updates()}]
    published = [view.updates(r, view.chain.membership)["a"].update for r in range(3)]
    assert [each.epsilon for each in published] == [epsilon(privacy, n) for n in (1, 2, 3)]
    assert [each.loss for each in published] == [None] * 3, "a loss tells of the text"
    spent = {line.party: line.epsilon for line in ledger(view.chain)}
    assert spent == {"a": None, "b": epsilon(privacy, 3), "c": epsilon(privacy, 3)}


def test_a_damaged_or_full_disk_costs_the_fed_back_error_alone(tmp_path: Path) -> None:
    made = federation("a", "b", chosen=sparse_terms())
    (tmp_path / "b").write_bytes(b"no folder can be here")
    said: list[str] = []
    lines = {name: line(made, name, residuals=tmp_path / name) for name in ("a", "b")}
    member = Member(made.store, made.identities["b"], made.digest, clock=made.clock)
    lines["b"] = Correspondence(
        member,
        chips={},
        residuals=tmp_path / "b",
        record=lambda event, **fields: said.append(str(fields.get("text", ""))),
    )
    lines["b"].open()
    run_round(lines, made.clock, 0)
    assert any("cannot be kept" in text for text in said)
    for path in (tmp_path / "a").iterdir():
        path.write_bytes(path.read_bytes()[:40])
    lines["a"] = line(made, "a", residuals=tmp_path / "a")
    run_round(lines, made.clock, 1)


def kept_terms(decay: float) -> Terms:
    codec = CodecConfig(kind="topk", density=1 / 64, feedback="kept", feedback_decay=decay)
    return Terms(name="test", round=terms().round, codec=codec)


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_what_an_update_leaves_out_stays_in_the_partys_own_parameters(
    tmp_path: Path, decay: float
) -> None:
    """Over a restart too: what is left out is neither lost nor trained again."""
    made = federation("a", "b", chosen=kept_terms(decay))
    lines = {name: line(made, name, residuals=tmp_path / name) for name in ("a", "b")}
    base = {name: value.clone() for name, value in lines["a"].state.parameters.items()}
    local = trained(0, 0).local
    run_round(lines, made.clock, 0)
    news = lines["a"].news()
    assert news is not None
    assert news.keep == 0.0  # together with what came when it was opened
    state = lines["a"].state
    delta = {name: local[name] - base[name] for name in base}
    _, left_out = state.codec.encode(delta, None)
    again = line(made, "a", residuals=tmp_path / "a").news()
    assert again is not None
    for name, shared in state.parameters.items():
        own = shared + decay * left_out[name]
        assert left_out[name].abs().max() > 0.01
        assert torch.allclose(again.change[name], own, atol=1e-6)
        began = news.change[name] - base[name]  # the news add up to what they do to the base
        assert torch.allclose(local[name] + began, own, atol=1e-6)
