"""The command line: what each verb takes, its help, and how it fails: one message, one code.

The help texts lie in `golden/`; MOTLEY_REWRITE_GOLDEN=1 writes them anew.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

import motley.cli.main as main
from motley.cli.app import app
from motley.cli.sampling import printable
from motley.errors import MotleyError, NoPlanError

ROOT = Path(__file__).parents[2]
PACKAGE = Path(main.__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"
DEMO_CLUSTER = str(ROOT / "clusters" / "demo.toml")
VERBS = (
    "probe", "plan", "scale", "replace", "predict", "train", "calibrate", "ablate",
    "vocabulary", "sample", "report", "doctor", "federation",
)  # fmt: skip
FEDERATION_VERBS = (
    "keygen", "create", "admit", "remove", "rotate", "status", "ledger", "verify", "join",
    "simulate",
)  # fmt: skip

FLAGS = {
    "probe": ["--help", "--json", "--out"],
    "plan": [
        "--cluster",
        "--goal",
        "--help",
        "--hours",
        "--html",
        "--json",
        "--out",
        "--trainable",
        "RECIPE",
    ],
    "replace": [
        "--count",
        "--help",
        "--json",
        "--model",
        "--network-gbit",
        "--per-node",
        "--price",
        "--with",
        "CHIP",
    ],
    "predict": ["--cluster", "--help", "--json", "--out", "--plan", "--recipe", "--table"],
    "calibrate": ["--cluster", "--help", "--json", "--out", "--recipe", "--steps", "RUN"],
    "scale": [
        "--batch",
        "--cluster",
        "--help",
        "--hours",
        "--json",
        "--layers",
        "--out",
        "--steps",
        "--width",
        "RECIPE",
    ],
    "train": [
        "--cluster",
        "--data",
        "--help",
        "--hours",
        "--json",
        "--plan",
        "--resume",
        "--run",
        "RECIPE",
    ],
    "ablate": [
        "--cluster",
        "--help",
        "--json",
        "--ladder",
        "--out",
        "--seeds",
        "--set",
        "RECIPE",
    ],
    "vocabulary": ["--help", "--json", "--size", "RECIPE"],
    "sample": ["--help", "--json", "--prompt", "--seed", "--temperature", "--tokens", "RUN"],
    "report": ["--help", "--json", "RUN"],
    "doctor": ["--help", "--json"],
    "federation": ["--help"],
}
FEDERATION_FLAGS = {
    "keygen": ["--help", "--json", "--out", "NAME"],
    "create": ["--help", "--json", "--key", "--member", "--recipe", "--terms", "STORE"],
    "admit": ["--fingerprint", "--help", "--json", "--key", "MEMBER", "STORE"],
    "remove": ["--fingerprint", "--help", "--json", "--key", "NAME", "STORE"],
    "rotate": ["--fingerprint", "--help", "--json", "--key", "STORE"],
    "status": ["--fingerprint", "--help", "--json", "STORE"],
    "ledger": ["--fingerprint", "--help", "--html", "--json", "--out", "STORE"],
    "verify": ["--fingerprint", "--help", "--json", "--key", "--ledger", "STORE"],
    "join": [
        "--cluster", "--fingerprint", "--help", "--json", "--key", "--run", "RECIPE", "STORE",
    ],
    "simulate": ["--help", "--json", "--local-steps", "--parties", "--rounds", "--store"],
}  # fmt: skip
"""Everything that the user can say. A new flag needs a reason, and a line here."""

RECIPE = """\
name = "tiny"
[model]
layers = 1
width = 16
heads = 2
context = 16
[data]
corpus = ["text"]
vocab_size = 300
held_out_share = 0.5
[batch]
sequence_length = 16
global_batch = 8
[schedule]
steps = 3
"""


NOT_WRITTEN = (
    "error: {} cannot be written: No such file or directory.\n"
    "Name a file in a folder that exists, is writable and has some space.\n"
)


def motley(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the command as a user would, without colours and 80 columns wide."""
    fixed = {"COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1", "PYTHONPATH": str(PACKAGE.parent)}
    environment = {**os.environ, **fixed}
    if cwd is not None:
        environment["XDG_CACHE_HOME"] = str(cwd / "cache")
    return subprocess.run(
        [sys.executable, "-m", "motley.cli.main", *arguments],
        capture_output=True, text=True, timeout=100, check=False, env=environment, cwd=cwd,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a small recipe and its text."""
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "text").mkdir()
    for index in range(12):
        lines = [f"line {number} of the text {index}" for number in range(40)]
        (tmp_path / "text" / f"{index}.txt").write_text("\n".join(lines))
    return tmp_path


def fails(result: subprocess.CompletedProcess[str], code: int) -> str:
    """The one message of a command that failed as it should."""
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.stderr.count("error:") == 1
    return result.stderr[result.stderr.index("error:") :]


@pytest.mark.parametrize("verb", ["", *VERBS, *(f"federation {v}" for v in FEDERATION_VERBS)])
def test_help(verb: str) -> None:
    result = motley(*verb.split(), "--help")
    assert (result.returncode, result.stderr) == (0, "")
    path = GOLDEN / f"cli_{verb.replace(' ', '_') or 'motley'}.txt"
    if os.environ.get("MOTLEY_REWRITE_GOLDEN") == "1":
        path.write_text(result.stdout)
    assert result.stdout == path.read_text()


def test_without_a_verb_the_help_is_shown() -> None:
    result = motley()
    assert result.returncode == 2
    assert (GOLDEN / "cli_motley.txt").read_text().strip() in result.stdout + result.stderr


def flags_of(group: Any) -> dict[str, list[str]]:
    return {
        verb: sorted(
            {name for each in command.params for name in (each.opts if each.param_type_name
             == "option" else [each.metavar])} | {"--help"}
        )
        for verb, command in group.commands.items()
    }  # fmt: skip


def test_the_verbs_and_their_flags_are_these() -> None:
    group: Any = typer.main.get_command(app)
    assert flags_of(group) == FLAGS
    assert tuple(group.commands) == VERBS
    assert flags_of(group.commands["federation"]) == FEDERATION_FLAGS
    assert tuple(group.commands["federation"].commands) == FEDERATION_VERBS


@pytest.mark.parametrize(
    "arguments",
    ["train --wrong", "frobnicate", "plan", "report", "sample x --tokens 0", "sample x --seed a"],
)
def test_a_wrong_use_is_explained_with_code_2(arguments: str) -> None:
    result = motley(*arguments.split())
    assert result.returncode == 2
    assert result.stdout == ""
    assert "--help" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("plan nope.toml", 11, "error: nope.toml: no such file.\nCheck the path.\n"),
        (
            "plan recipe.toml --hours nan",
            2,
            "error: --hours must be a time above zero, found nan.\nGive --hours 48.\n",
        ),
        (
            "scale recipe.toml --hours -1",
            2,
            "error: --hours must be a time above zero, found -1.\nGive --hours 48.\n",
        ),
        (
            "train --hours 0",
            2,
            "error: --hours must be a time above zero, found 0.\nGive --hours 48.\n",
        ),
        (
            "train gpt2",
            11,
            "error: gpt2 is a model's name, not a recipe's file.\nWrite a recipe.toml with preset "
            """= "gpt2" under [model] and your text under [data]; 'motley plan' also takes the """
            "name alone.\n",
        ),
        ("probe --out deep/c.toml", 31, NOT_WRITTEN.format("deep/c.toml")),
        ("plan recipe.toml --out deep/p.json", 31, NOT_WRITTEN.format("deep/p.json")),
        ("plan recipe.toml --html deep/p.html", 31, NOT_WRITTEN.format("deep/p.html")),
        (
            "train recipe.toml --run text",
            17,
            "error: text exists already.\nGo on with: motley train --resume text\nOr name another "
            "folder with --run.\n",
        ),
        ("train nope.toml", 11, "error: nope.toml: no such file.\nCheck the path.\n"),
        ("train .", 11, "error: . is a folder, not a file.\nName the TOML file.\n"),
        (
            "train recipe.toml --hours 3",
            2,
            "error: --hours and --data are for a training without a recipe.\nA recipe names its "
            "text; motley scale RECIPE --hours N changes its size.\n",
        ),
        (
            "train recipe.toml --resume run",
            2,
            "error: --resume goes on with a run's own recipe and folder.\n"
            "Leave out the recipe and --run.\n",
        ),
        (
            "plan recipe.toml --cluster nope.toml",
            12,
            "error: nope.toml: no such file.\nCheck the path.\n",
        ),
        (
            "train recipe.toml --cluster recipe.toml",
            12,
            "error: recipe.toml: unknown key 'model'.\nKnown keys: name, chip, group, link.\n",
        ),
        (
            "train recipe.toml --plan nope.json",
            16,
            "error: nope.json: no such file.\nRun 'motley plan'.\n",
        ),
        ("report nope", 17, "error: nope is not a run: no such folder.\nCheck the path.\n"),
        ("sample nope", 17, "error: nope is not a run: no such folder.\nCheck the path.\n"),
        ("train --resume nope", 17, "error: nope is not a run: no such folder.\nCheck the path.\n"),
        (
            "report text",
            17,
            "error: text is not a run: there is no recipe.json in it.\nCheck the path.\n",
        ),
    ],
)
def test_what_the_user_got_wrong_is_one_message(
    folder: Path, arguments: str, code: int, message: str
) -> None:
    """At once: neither is the machine measured before nor text read."""
    result = motley(*arguments.split(), cwd=folder)
    assert fails(result, code) == message
    assert result.stderr == message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "global_batch",
            "global_bach",
            "recipe.toml.batch: unknown key 'global_bach'.\nDid you mean 'global_batch'?\n",
        ),
        (
            "[schedule]",
            "[shedule]",
            "recipe.toml: unknown key 'shedule'.\nDid you mean 'schedule'?\n",
        ),
        ("layers = 1", "layers = 0", "recipe.toml.model.layers: must be above zero, found 0\n"),
        (
            "sequence_length = 16",
            "sequence_length = 17",
            "recipe.toml.batch.sequence_length: 17 tokens do not fit the model's context 16\n",
        ),
    ],
)
def test_a_recipe_with_a_mistake(folder: Path, old: str, new: str, message: str) -> None:
    assert old in RECIPE
    (folder / "recipe.toml").write_text(RECIPE.replace(old, new))
    result = motley("train", "recipe.toml", "--cluster", DEMO_CLUSTER, cwd=folder)
    assert fails(result, 11) == f"error: {message}"
    assert not (folder / "runs").exists()


def test_a_recipe_that_is_not_toml(folder: Path) -> None:
    (folder / "recipe.toml").write_text("[model\n")
    message = fails(motley("plan", "recipe.toml", "--cluster", DEMO_CLUSTER, cwd=folder), 11)
    assert message.startswith("error: recipe.toml: not valid TOML: ")


def test_a_corpus_that_is_not_there(folder: Path) -> None:
    (folder / "recipe.toml").write_text(RECIPE.replace('"text"', '"txet"'))
    result = motley("plan", "recipe.toml", "--cluster", DEMO_CLUSTER, cwd=folder)
    assert "txet" in fails(result, 14)


def test_a_run_that_exists_is_not_overwritten(folder: Path) -> None:
    arguments = ["train", "recipe.toml", "--cluster", DEMO_CLUSTER, "--run", "text"]
    message = fails(motley(*arguments, cwd=folder), 17)
    assert message.startswith("error: text exists already.\n")
    assert "--resume text" in message
    assert len(list((folder / "text").iterdir())) == 12


def test_a_plan_as_data_and_as_a_file_that_only_fits_its_recipe(folder: Path) -> None:
    result = motley("plan", "recipe.toml", "--cluster", DEMO_CLUSTER, "--json", cwd=folder)
    assert result.returncode == 0, result.stderr
    plan = json.loads(result.stdout)
    written = json.loads((folder / "plan.json").read_text())
    assert written == {key: plan[key] for key in written}
    assert sum(replica["num_samples"] for replica in plan["replicas"]) == 8

    (folder / "other.toml").write_text(RECIPE.replace("global_batch = 8", "global_batch = 9"))
    arguments = ["train", "other.toml", "--cluster", DEMO_CLUSTER, "--plan", "plan.json"]
    message = fails(motley(*arguments, cwd=folder), 16)
    assert message.startswith("error: the plan was made for another recipe (")
    assert "motley plan" in message
    assert not (folder / "runs").exists()


def test_a_plan_as_tables(folder: Path) -> None:
    arguments = ["plan", "recipe.toml", "--cluster", DEMO_CLUSTER, "--out", "deep/plan.json"]
    assert "deep/plan.json cannot be written" in fails(motley(*arguments, cwd=folder), 31)
    result = motley(*arguments[:-1], "other.json", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "strong" in result.stdout
    assert (folder / "other.json").is_file()


def test_what_a_model_writes_does_not_steer_the_terminal() -> None:
    assert printable("a\x1b[2J\x07é東\n\tb") == "a\ufffd[2J\ufffdé東\n\tb"


def run_with(monkeypatch: pytest.MonkeyPatch, raised: BaseException) -> Any:
    """The exit code of a verb that ends like that."""

    def fail(*arguments: Any, **options: Any) -> None:
        raise raised

    monkeypatch.setattr("motley.cli.planning.run", fail)
    monkeypatch.setattr(sys, "argv", ["motley", "plan", "recipe.toml"])
    with pytest.raises(SystemExit) as end:
        main.run()
    return end.value.code


def test_ctrl_c_while_the_command_is_still_imported_is_no_trace() -> None:
    code = (
        "import builtins, sys, motley.cli.main as main\n"
        "real = builtins.__import__\n"
        "def interrupted(name, *rest):\n"
        "    if name == 'typer': raise KeyboardInterrupt\n"
        "    return real(name, *rest)\n"
        "builtins.__import__ = interrupted\n"
        "main.run()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stderr) == (130, "stopped.\n")


def test_ctrl_c_is_code_130_and_no_trace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_with(monkeypatch, KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "stopped.\n"


@pytest.mark.parametrize(
    ("error", "printed"),
    [
        (MotleyError("what."), "error: what.\n"),
        (NoPlanError("what.", remedy="Do."), "error: what.\nDo.\n"),
    ],
)
def test_an_error_of_ours_is_its_message_its_remedy_and_its_code(
    error: MotleyError,
    printed: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_with(monkeypatch, error) == error.exit_code
    assert capsys.readouterr().err == printed


def test_a_reader_that_went_away_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_with(monkeypatch, BrokenPipeError()) == 1
