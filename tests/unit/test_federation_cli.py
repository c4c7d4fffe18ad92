"""The verbs that found, govern and check a federation, and what they say to what is wrong."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

import motley.cli.main as main
from federation_cases import Clock, Party, finish_round
from motley.cli.federating import create, remove
from motley.data import load_tokenizer
from motley.errors import TermsError
from motley.federation.charter.terms import (
    RoundTerms,
    Terms,
    doubts,
    load_terms,
    review_words,
    usual_terms,
)
from motley.federation.keys.identity import load_identity
from motley.federation.party.joining import fetch_tokenizer
from motley.federation.party.rounds import Member
from motley.federation.storage.store import open_store
from test_cli import RECIPE

TERMS = """\
name = "two labs"
[round]
local_steps = 20
quorum = 2
[codec]
kind = "int8"
[outer]
kind = "nesterov"
learning_rate = 0.7
"""


class Shell:
    """Runs verbs in this process, as the command line does."""

    def __init__(self, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self._patch, self._capture = patch, capture

    def __call__(self, line: str, code: int = 0) -> str:
        """What the verb printed, or for a failure its one message."""
        self._patch.setattr(sys, "argv", ["motley", "federation", *line.split()])
        with pytest.raises(SystemExit) as end:
            main.run()
        output = self._capture.readouterr()
        assert (end.value.code or 0) == code, output.err
        assert "Traceback" not in output.err
        return output.err if code else output.out


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "terms.toml").write_text(TERMS)
    (folder / "text").mkdir()
    for index in range(12):
        lines = [f"line {number} of the text {index}" for number in range(40)]
        (folder / "text" / f"{index}.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture
def shell(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Shell:
    shutil.copytree(corpus, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Shell(monkeypatch, capsys)


def founded(shell: Shell, options: str = "--terms terms.toml") -> str:
    """A federation of lab-a and lab-b in "store"; its fingerprint."""
    shell("keygen lab-a")
    member = shell("keygen lab-b").strip()
    create = f"create store --recipe recipe.toml --key lab-a.key --member {member} {options}"
    return shell(create).strip()


def test_from_keys_to_a_verified_ledger(shell: Shell) -> None:
    fingerprint = founded(shell)
    assert len(fingerprint) == 16
    clock = Clock()
    parties = [
        Party(open_store("store"), load_identity(Path(f"{name}.key")), clock)
        for name in ("lab-a", "lab-b")
    ]
    for party in parties:
        party.publish()
    finish_round(parties, clock)
    status = json.loads(shell(f"status store --json --fingerprint {fingerprint}"))
    assert (status["name"], status["next_round"]) == ("two labs", 1)
    assert "lab-b" in shell("status store")
    lines = json.loads(shell("ledger store --json --out ledger.csv"))["lines"]
    assert [(line["party"], line["share"]) for line in lines] == [("lab-a", 0.5), ("lab-b", 0.5)]
    assert "50.0 %" in shell("ledger store")
    assert "1 rounds, 2 updates, 1 digests and 2 ledger lines" in shell(
        "verify store --ledger ledger.csv"
    )
    shell("ledger store --html ledger.html")
    page = Path("ledger.html").read_text()
    assert "lab-a: 50.0 % of the weights, 50.0 % of the chip-seconds" in page
    assert f"fingerprint {fingerprint}" in page
    assert "cannot be written" in shell("ledger store --html nowhere/ledger.html", 31)
    csv = Path("ledger.csv")
    csv.write_text(csv.read_text().replace("0.5", "0.6", 1))
    assert "the log does not hold" in shell("verify store --ledger ledger.csv", 68)


def test_who_founds_is_told_what_is_withstood_and_spent(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    privacy = "[privacy]\nclip_norm = 1.0\nnoise_multiplier = 1.0\n"
    Path("terms.toml").write_text(TERMS.replace("local_steps = 20", "local_steps = 1") + privacy)
    recipe = Path("recipe.toml")
    recipe.write_text(recipe.read_text().replace("steps = 3", "steps = 100"))
    shell("keygen lab-a")
    others = [shell(f"keygen lab-{name}").strip() for name in "bc"]
    create("store", recipe, Path("terms.toml"), Path("lab-a.key"), others, as_json=False)
    said = capsys.readouterr().err
    assert "2 that say the same, or 3" in said
    assert "Dishonest reviewers that 3 members withstand: 1." in said
    assert "epsilon 293 at delta 1e-05 for each party after all 100 rounds. WARNING" in said
    assert "dishonest reviewers withstood: 1" in shell("status store")
    clock = Clock()
    parties = [
        Party(open_store("store"), load_identity(Path(f"lab-{name}.key")), clock) for name in "abc"
    ]
    for party in parties:
        party.publish(epsilon=2.5)
    finish_round(parties, clock)
    for verb in ("status", "ledger"):
        assert "2.5" in shell(f"{verb} store")


def test_admitting_and_removing(shell: Shell) -> None:
    founded(shell)
    member = shell("keygen lab-c --out c.key").strip()
    assert json.loads(shell(f"admit store {member} --key lab-a.key --json"))["action"] == "admit"
    shell("remove store lab-b --key lab-a.key")
    shell("admit store lab-b --key lab-a.key")
    assert "'lab-b' may not amend" in shell("remove store lab-a --key lab-b.key", 64)
    assert "was admitted before" in shell(f"admit store {member} --key lab-a.key", 64)
    assert "was never admitted" in shell("remove store lab-x --key lab-a.key", 64)
    pending = ["admit lab-c", "remove lab-b", "readmit lab-b"]
    assert json.loads(shell("status store --json"))["pending_amendments"] == pending
    assert f"from the next seal on: {', '.join(pending)}" in shell("status store")


def test_who_removes_too_many_is_told(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    founded(shell)
    remove("store", "lab-b", Path("lab-a.key"), fingerprint=None, as_json=False)
    assert "the quorum is 2, and 1 active party is left" in capsys.readouterr().err
    remove("store", "lab-a", Path("lab-a.key"), fingerprint=None, as_json=False)
    assert "nobody active is left" in capsys.readouterr().err


def test_a_store_that_cannot_hold_a_federation_is_refused_before_any_text_is_read(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell("keygen lab-a")
    member = shell("keygen lab-b").strip()
    shutil.rmtree("text")
    Path("store").mkdir()
    Path("store/probe").write_text("in the way of a folder")
    create = f"create store --recipe recipe.toml --key lab-a.key --member {member}"
    assert "cannot write probe" in shell(f"{create} --terms terms.toml", 62)


def test_what_founding_refuses(shell: Shell) -> None:
    founded(shell)
    again = "create store --recipe recipe.toml --key lab-a.key --member lab-b:" + "0" * 64
    assert "there is a federation in this store already" in shell(again, 61)
    alone = "create other --recipe recipe.toml --key lab-a.key"
    assert "there are 1 parties" in shell(alone, 18)
    assert "is not NAME:PUBLICKEY" in shell(f"{alone} --member lab-b", 2)
    assert "Make one: motley federation keygen" in shell(alone.replace("lab-a.key", "x.key"), 64)
    assert not Path("other").exists()
    assert "exists already" in shell("keygen lab-a", 64)
    assert "small letters" in shell("keygen Lab", 64)


def test_a_recipe_that_cannot_be_shared_is_refused_before_anything_is_made(shell: Shell) -> None:
    shell("keygen lab-a")
    recipe = Path("recipe.toml")
    text = recipe.read_text()
    recipe.write_text(text.replace("[schedule]", "[schedule]\ntail_average_share = 0.2"))
    message = shell("create other --recipe recipe.toml --key lab-a.key", 18)
    assert "tail_average_share" in message
    assert not Path("other").exists()


def test_a_charter_changed_by_a_byte_is_refused(shell: Shell) -> None:
    fingerprint = founded(shell)
    path = Path("store/charter.json")
    text = path.read_text()
    path.write_text(text.replace('"quorum":2', '"quorum":1'))
    assert "the charter is damaged or was changed" in shell("status store", 63)
    message = shell(f"status store --fingerprint {fingerprint}", 63)
    assert f"not {fingerprint}" in message
    path.write_text(text)
    shell(f"status store --fingerprint {fingerprint}")


def test_an_encrypted_federation_is_read_with_a_members_key(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("terms.toml").write_text("encrypted = true\n" + TERMS)
    founded(shell)
    shell("verify store --key lab-b.key")
    member = Member(open_store("store"), load_identity(Path("lab-b.key")))
    member.check_standing()
    tokenizer = load_tokenizer(fetch_tokenizer(member, Path("run")))
    assert tokenizer.digest == member.chain.charter.tokenizer.digest
    assert "only its members can replay them" in shell("verify store", 64)
    stranger = shell("keygen lab-c").strip()
    assert "'lab-c' has not been given the group key" in shell("verify store --key lab-c.key", 64)
    shell(f"admit store {stranger} --key lab-a.key")
    shell("verify store --key lab-c.key")
    assert "'lab-c' may not amend" in shell("rotate store --key lab-c.key", 64)
    rotated = json.loads(shell("rotate store --key lab-a.key --json"))
    assert rotated["handout"]["epoch"] == 1
    assert sorted(rotated["handout"]["sealed"]) == ["lab-a", "lab-b", "lab-c"]
    remove("store", "lab-b", Path("lab-a.key"), fingerprint=None, as_json=False)
    said = capsys.readouterr().err
    assert "encrypted in epoch 2, of which the group key goes to lab-a, lab-c" in said
    assert "'lab-b' keeps what it has read" in said


def test_what_is_not_encrypted_has_no_key_to_rotate(shell: Shell) -> None:
    founded(shell)
    assert "no group key to rotate" in shell("rotate store --key lab-a.key", 64)


def test_a_member_key_that_is_none_founds_no_encrypted_federation(shell: Shell) -> None:
    Path("terms.toml").write_text("encrypted = true\n" + TERMS)
    shell("keygen lab-a")
    create = "create store --recipe recipe.toml --key lab-a.key --terms terms.toml --member lab-b:"
    assert "nothing can be encrypted for the public key" in shell(create + "0" * 64, 64)
    assert not Path("store/charter.json").exists()


def test_no_store_and_no_federation(shell: Shell) -> None:
    assert "no such folder" in shell("status nowhere", 61)
    Path("empty").mkdir()
    assert "there is no federation in this store" in shell("status empty", 63)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("quorum", "quorom", "Did you mean 'quorum'?"),
        ("quorum = 2", "quorum = 0", "must be above zero"),
        (
            "quorum = 2",
            "quorum = 2\nreviews = 3",
            "reviews: 3 cannot be had where quorum = 2 parties may be all that are there: raise "
            "quorum to it, or leave reviews out",
        ),
        ("local_steps = 20", "local_steps = 20\nfragments = 3", "do not divide"),
        ('kind = "int8"', 'kind = "topk"', "must be 'average' with the codec 'topk'"),
        ('kind = "int8"', 'kind = "int9"', "Did you mean 'int8'?"),
        (
            'kind = "int8"\n[outer]\nkind = "nesterov"',
            'kind = "topk"\n[aggregate]\naggregate = "trimmed_mean"\n[outer]\nkind = "average"',
            "a trimmed mean of 'topk' updates is nearly nothing",
        ),
        (
            "[codec]",
            "[defences]\nloss_gate = 2.0\n[privacy]\nclip_norm = 1\nnoise_multiplier = 20\n[codec]",
            "terms.toml.defences.loss_gate: not with [privacy]",
        ),
        ("[codec]", "[defences]\nloss_gate = -1.0\n[codec]", "loss_gate: must not be negative"),
    ],
)
def test_terms_with_a_mistake(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "terms.toml"
    path.write_text(TERMS.replace(old, new))
    with pytest.raises(TermsError) as caught:
        load_terms(path)
    assert message in str(caught.value)


def test_reviews_follow_the_quorum(tmp_path: Path) -> None:
    path = tmp_path / "terms.toml"
    path.write_text("[round]\nquorum = 1\n")
    alone = load_terms(path).round
    assert [alone.needed_reviews(parties) for parties in (1, 2, 5)] == [1, 1, 1]
    assert "With quorum = 1 each party may seal alone" in review_words(alone, 5)


@pytest.mark.parametrize(
    ("parties", "needed", "settling", "withstood"),
    [(1, 1, 1, 0), (2, 2, 2, 0), (3, 2, 3, 1), (4, 2, 3, 1), (5, 2, 3, 1), (256, 2, 3, 1)],
)
def test_the_usual_reviews_follow_the_members(
    parties: int, needed: int, settling: int, withstood: int
) -> None:
    usual = RoundTerms()
    assert usual.needed_reviews(parties) == needed
    assert usual.settling_reviews(parties) == settling
    assert usual.withstood(parties) == withstood
    assert f"withstand: {withstood or 'none'}." in review_words(usual, parties)


def test_reviews_that_are_given_stand_as_they_are() -> None:
    five = RoundTerms(quorum=5, reviews=5)
    assert (five.needed_reviews(9), five.settling_reviews(9), five.withstood(9)) == (5, 5, 2)
    two = RoundTerms(reviews=2)
    assert "Leave round.reviews = 2 out, and one is withstood" in review_words(two, 5)


def test_the_defaults_are_terms() -> None:
    assert Terms().codec.kind == "topk"
    assert Terms().outer.kind == "average"


@pytest.mark.parametrize(
    ("steps", "local_steps", "codec"),
    [(1, 1, "int8"), (150, 5, "int8"), (3000, 100, "int8"), (100_000, 100, "topk")],
)
def test_usual_terms_give_rounds_enough(steps: int, local_steps: int, codec: str) -> None:
    chosen, reason = usual_terms(steps)
    assert (chosen.round.local_steps, chosen.codec.kind) == (local_steps, codec)
    assert f"rounds of {local_steps} local steps" in reason
    assert codec in reason
    if codec == "topk":
        assert f"about {1000 * chosen.codec.density:.0f} times" in reason
    assert doubts(chosen, steps) is None


def test_terms_that_cannot_carry_a_training_are_doubted() -> None:
    doubt = doubts(Terms(), 150)
    assert doubt is not None
    assert "with 2 rounds" in doubt
