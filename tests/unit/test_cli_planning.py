"""The planner's verbs with real files: plan, replace, predict, calibrate, used well and badly."""

from __future__ import annotations

import csv
import json
import tomllib
import typing
from pathlib import Path

import pytest

from motley.cluster import load_cluster
from motley.plan.calibration import FEWEST_STEPS, WARM_UP_STEPS
from motley.plan.objective import Goal
from test_cli import DEMO_CLUSTER, RECIPE, fails, motley

TWO = """\
[[group]]
kind = "a100-sxm-40g"
count = 2
usd_per_hour = 1.5
price_source = "a friend, today"
[[group]]
kind = "rtx-3090"
count = 1
usd_per_hour = 0.2
[[link]]
between = ["*", "*"]
gbit_per_s = 100
"""

REPLACE = "replace a100-sxm-80g --with rtx-3090 --model gpt2"

FIXED = RECIPE.replace("context = 16", "context = 16\nvocab_size = 300").replace('"text"', '"no"')
"""A recipe that fixes its vocabulary, with a text that is not there."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cluster.toml").write_text(TWO)
    (tmp_path / "fixed.toml").write_text(FIXED)
    return tmp_path


def test_a_model_by_name_is_planned_with_stated_defaults(folder: Path) -> None:
    words = ("plan", "gpt2", "--cluster", "cluster.toml")
    result = motley(*words, "--json", cwd=folder)
    assert result.returncode == 0, result.stderr
    for said in ("sequence_length = 1024", "global_batch = 512", "steps = ", "arXiv 2005.14165"):
        assert said in result.stderr
    plan = json.loads(result.stdout)
    hourly = sum(1.5 if name.startswith("a100") else 0.2 for replica in plan["replicas"]
                 for stage in replica["stages"] for name in stage["chips"])  # fmt: skip
    assert plan["money"]["usd_per_hour"] == pytest.approx(hourly)
    assert plan["money"]["usd_per_billion_tokens"] == pytest.approx(
        hourly * 1e9 / plan["tokens_per_s"] / 3600
    )
    assert plan["prices"][0]["source"] == "a friend, today"
    assert plan["trainable"]["tokens_per_s"] <= plan["tokens_per_s"] * (1 + 1e-3)

    predicted = motley(
        "predict", "--plan", "plan.json", "--recipe", "gpt2", "--cluster", "cluster.toml",
        "--json", cwd=folder,
    )  # fmt: skip
    assert predicted.returncode == 0, predicted.stderr
    again = json.loads(predicted.stdout)
    assert again["fits"] is True
    assert again["step_s"] == pytest.approx(plan["step_s"], rel=1e-9)

    cheap = motley(*words, "--goal", "cost", "--json", cwd=folder)
    assert cheap.returncode == 0, cheap.stderr
    frugal = json.loads(cheap.stdout)
    usd_per_billion = frugal["money"]["usd_per_billion_tokens"]
    assert usd_per_billion <= plan["money"]["usd_per_billion_tokens"] * (1 + 1e-9)
    assert {each["unit"] for each in plan["one_more"]} == {"tokens/s"}
    for each in frugal["one_more"]:
        assert each["unit"] == "USD per billion tokens"
        assert each["reached"] == pytest.approx(usd_per_billion * (1 - each["gain"]))


def test_the_advice_goes_by_the_hours_or_by_the_recipes_steps(folder: Path) -> None:
    words = ("plan", "fixed.toml", "--cluster", DEMO_CLUSTER)
    own = motley(*words, cwd=folder)
    assert own.returncode == 0, own.stderr
    text = " ".join(own.stdout.split())
    for said in ("What to train with this compute", "the recipe's own", "arXiv 2404.10102"):
        assert said in text
    result = motley(*words, "--hours", "10", "--json", cwd=folder)
    assert result.returncode == 0, result.stderr
    plan = json.loads(result.stdout)
    advice = plan["advice"]
    assert advice["source"] == "predicted"
    assert "10 h" in advice["budget"]["origin"]
    best = advice["best"]
    assert best["tokens"] == best["steps"] * best["global_batch"] * 16
    assert best["flops"] == pytest.approx(advice["budget"]["flops"], rel=0.01)


def test_no_text_is_read_where_the_vocabulary_is_known(folder: Path) -> None:
    result = motley(
        "plan", "fixed.toml", "--cluster", DEMO_CLUSTER, "--trainable", "--html", "page.html",
        cwd=folder,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "cannot be trained" not in result.stdout
    assert "price is unknown" in " ".join(result.stdout.split())
    assert "What to train with this compute" in (folder / "page.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("plan gtp2 --cluster cluster.toml", 11, "Did you mean 'gpt2'?"),
        ("plan gpt2 --cluster cluster.toml --goal deadline", 2, "Give --hours 48."),
        ("plan gpt2 --cluster cluster.toml --hours 0", 2, "above zero"),
        ("plan gpt2 --cluster cluster.toml --goal deadline --hours -1", 2, "above zero"),
        ("plan deepseek-v3 --cluster cluster.toml --trainable", 11, "latent attention"),
        ("plan llama3-8b --cluster cluster.toml", 20, "are lacking"),
        ("plan fixed.toml --cluster demo.toml --goal cost", 12, "emulated"),
        ("replace a100-sxm-80q --with rtx-3090 --model gpt2", 13, "Did you mean"),
        ("replace a100 --with rtx-3090 --model gpt2", 13, "fits"),
        ("replace a100-sxm-80g --with rtx-309O --model gpt2", 13, "rtx-309"),
        ("replace a100-sxm-80g --with rtx-3090 --model gpt9", 11, "gpt9"),
        ("replace a100-sxm-80g --with biren-br106 --model gpt2", 2, "no chip is left"),
        ("replace a100-sxm-80g --with rtx-3090 --model gpt2 --network-gbit 0", 2, "above zero"),
        (f"{REPLACE} --price rtx-3090", 2, "must name a chip and USD per chip-hour"),
        (f"{REPLACE} --price =1", 2, "must name a chip and USD per chip-hour"),
        (f"{REPLACE} --price rtx-3090=-1", 2, "above zero"),
        (f"{REPLACE} --price rtx-3090=0", 2, "above zero"),
        (f"{REPLACE} --price rtx-3090=nan", 2, "above zero"),
        (f"{REPLACE} --price rtx-3090=inf", 2, "above zero"),
        (f"{REPLACE} --price rtx-3909=1", 13, "Did you mean"),
        (f"{REPLACE} --price rtx-4090=1", 2, "neither replaced nor among the others"),
        (f"{REPLACE} --price rtx-3090=1 --price nvidia-rtx-3090=2", 2, "rtx-3090 twice"),
        ("predict", 2, "nothing to predict"),
        ("predict --plan p.json", 2, "Give --plan, --recipe and --cluster."),
        ("predict --plan p.json --table t.csv", 2, "at once"),
        ("predict --table t.csv", 2, "Give --out out.csv."),
        ("predict --table demo.toml --out ./demo.toml", 2, "is the table itself"),
        ("predict --table t.csv --recipe gpt2 --out o.csv", 2, "a table has its own models"),
        ("predict --plan p.json --recipe gpt2 --cluster cluster.toml", 16, "no such file"),
        ("calibrate", 2, "give a run or a recipe to run"),
        ("calibrate run --recipe fixed.toml", 2, "a run has its own recipe"),
        ("calibrate run", 17, "run is not a run: no such folder"),
    ],
)
def test_what_the_user_got_wrong(folder: Path, arguments: str, code: int, message: str) -> None:
    (folder / "demo.toml").write_text(Path(DEMO_CLUSTER).read_text())
    assert message in fails(motley(*arguments.split(), cwd=folder), code)
    assert not (folder / "plan.json").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("usd_per_hour = 1.5", "usd_per_hour = 0", "a price must be above zero"),
        ("a100-sxm-40g", "a100-sxm-41g", "Did you mean"),
        ("count = 2", "count = 2\nper_node = [1, 2]", "but count is 2"),
    ],
)
def test_a_cluster_that_cannot_be(folder: Path, old: str, new: str, message: str) -> None:
    (folder / "cluster.toml").write_text(TWO.replace(old, new))
    result = motley("plan", "gpt2", "--cluster", "cluster.toml", cwd=folder)
    assert result.returncode in (12, 13)
    assert message in result.stderr


def test_the_goal_cost_needs_every_price(folder: Path) -> None:
    (folder / "cluster.toml").write_text(
        TWO.replace('usd_per_hour = 1.5\nprice_source = "a friend, today"', "").replace(
            "a100-sxm-40g", "v100-sxm2-32g"
        )
    )
    words = ("plan", "gpt2", "--cluster", "cluster.toml", "--goal", "cost")
    assert "v100-sxm2-32g is unknown" in fails(motley(*words, cwd=folder), 12)


def test_a_plan_by_hand_is_predicted_though_it_does_not_fit(folder: Path) -> None:
    stage = {"chips": ["rtx-3090.0"], "first_layer": 0, "last_layer": 14, "precision": "bf16"}
    replica = {"stages": [stage], "num_samples": 512, "micro_batch_size": 512}
    (folder / "own.json").write_text(json.dumps({"replicas": [replica]}))
    words = ("predict", "--plan", "own.json", "--recipe", "gpt2", "--cluster", "cluster.toml")
    result = motley(*words, "--json", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "the plan does not fit" in result.stderr
    assert json.loads(result.stdout)["fits"] is False
    stage["last_layer"] = 13
    (folder / "own.json").write_text(json.dumps({"replicas": [replica]}))
    assert "ends before layer 13" in fails(motley(*words, cwd=folder), 16)


def test_a_table_is_predicted_line_by_line(folder: Path) -> None:
    (folder / "in.csv").write_text(
        "source,model,n_layers,d_model,n_heads,seq_len,vocab,global_batch,micro_batch,chip,n_chips,"
        "tp,pp,dp,precision\n"
        "me,gpt,12,768,12,1024,50257,512,8,A100-SXM-80GB,1,1,1,1,bf16\n"
        "me,gpt,twelve,768,12,1024,50257,512,8,A100-SXM-80GB,1,1,1,1,bf16\n"
    )
    result = motley("predict", "--table", "in.csv", "--out", "out.csv", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "line 3" in result.stderr
    with (folder / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["predicted_step_s"]) > 0


def test_replacements_side_by_side(folder: Path) -> None:
    words = ("replace", "a100-sxm-40g", "--with", "rtx-3090", "--with", "v100-sxm2-16g",
             "--with", "biren-br106", "--model", "gpt2")  # fmt: skip
    result = motley(*words, "--json", cwd=folder)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    goal = found["strong"]["tokens_per_s"]
    assert found["cannot_hold"] == ""
    for offer in (found["fewest"], found["cheapest"], found["most_frugal"], *found["alone"]):
        assert offer["tokens_per_s"] >= goal
    assert found["fewest"]["num_chips"] == min(offer["num_chips"] for offer in found["alone"])
    powers = [offer["power_w"] for offer in found["alone"]]
    assert found["most_frugal"]["power_w"] <= min(powers)
    assert "nvidia-v100-sxm2-16g" not in found["cheapest"]["counts"] or (
        found["cheapest"]["usd_per_hour"] is not None
    )
    assert "biren-br106" in {each["kind"] for each in found["left_out"]}
    assert 0 < found["error_band"]["share"] < 1
    assert found["error_band"]["source"]


def test_the_users_price_beats_the_catalogs(folder: Path) -> None:
    words = ("replace", "a100-sxm-40g", "--with", "rtx-3090", "--with", "v100-sxm2-32g",
             "--model", "gpt2", "--price", "v100-sxm2-32g=0.01", "--json")  # fmt: skip
    result = motley(*words, cwd=folder)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    cheapest = found["cheapest"]
    assert list(cheapest["counts"]) == ["nvidia-v100-sxm2-32g"]
    assert cheapest["usd_per_hour"] == pytest.approx(0.01 * cheapest["num_chips"])
    sources = {price["item"]: price["source"] for price in found["prices"]}
    assert sources["nvidia-v100-sxm2-32g"] == "yours"
    assert "yours" not in sources["nvidia-rtx-3090"]
    assert not any(each["kind"] == "nvidia-v100-sxm2-32g" for each in found["left_out"])


PAIR = """\
[[chip]]
name = "fast"
kind = "k2"
emulated = true
source = "emulated"
flops_per_s = { fp32 = 2e7 }
memory_bytes = 1e9
memory_bandwidth_bytes_per_s = 1e9
[[chip]]
name = "slow"
kind = "k1"
emulated = true
source = "emulated"
flops_per_s = { fp32 = 1e7 }
memory_bytes = 1e9
memory_bandwidth_bytes_per_s = 1e9
[[link]]
bandwidth_bytes_per_s = 1e9
latency_s = 1e-4
emulated = true
source = "emulated"
"""


def test_a_short_run_calibrates(folder: Path) -> None:
    """Emulated chips are found as declared, and figures that are wrong by half are put right."""
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "pair.toml").write_text(PAIR)
    (folder / "text").mkdir()
    for index in range(12):
        lines = [f"line {number} of the text {index}" for number in range(40)]
        (folder / "text" / f"{index}.txt").write_text("\n".join(lines))
    words = ("calibrate", "--recipe", "recipe.toml", "--cluster", "pair.toml", "--json")
    result = motley(*words, "--steps", "7", cwd=folder)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert {kind["kind"] for kind in found["kinds"]} == {"k1", "k2"}
    for kind in found["kinds"]:
        assert kind["emulated"]
        assert kind["time_scale"] == 1.0
        assert kind["measured_s"] == pytest.approx(kind["predicted_s"], rel=0.01)
    assert load_cluster(folder / "calibrated.toml") == load_cluster(folder / "pair.toml")
    assert "measured" in (folder / "calibrated.toml").read_text().splitlines()[0]

    real = PAIR.replace("emulated = true\nsource", "source").replace("e7 }", "e7 }\n")
    real = real.replace("2e7", "3e7").replace('"emulated"', '"quoted"')
    (folder / "real.toml").write_text(real)
    words = ("calibrate", "runs/tiny-calibration", "--cluster", "real.toml", "--out", "new.toml")
    result = motley(*words, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "time_scale" in result.stdout
    scales = {chip.name: chip.time_scale for chip in load_cluster(folder / "new.toml").chips}
    assert scales == pytest.approx({"fast": 1.5, "slow": 1.0}, rel=0.01)
    assert "# measured " in (folder / "new.toml").read_text()
    assert tomllib.loads((folder / "new.toml").read_text())["chip"][0]["time_scale"]


def test_the_goals_on_the_command_line_are_those_of_the_planner() -> None:
    from motley.cli.verbs import plan

    hint = typing.get_type_hints(plan)["goal"]
    assert typing.get_args(hint) == typing.get_args(Goal)


def test_no_run_that_is_too_short_is_begun(folder: Path) -> None:
    for steps, code in ((WARM_UP_STEPS + FEWEST_STEPS, 11), (WARM_UP_STEPS + FEWEST_STEPS - 1, 2)):
        result = motley("calibrate", "--recipe", "no.toml", "--steps", str(steps), cwd=folder)
        assert result.returncode == code
