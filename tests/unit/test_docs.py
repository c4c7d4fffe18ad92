"""The documents say what is so: every key with its default, links that lead somewhere, commands
that parse, and example files that can be planned."""

from __future__ import annotations

import dataclasses
import pkgutil
import re
import shlex
import tomllib
import typing
from pathlib import Path
from typing import Any

import pytest
import typer

from motley.chips.catalog import look_up
from motley.chips.chip import Chip, Link
from motley.cli.app import app
from motley.cluster import Cluster, Group, load_cluster, parse_cluster
from motley.model.config import LatentAttention, MixtureOfExperts, ModelConfig, RopeScaling
from motley.model.counts import model_counts
from motley.model.presets import PRESETS
from motley.plan import Plan, search, validate
from motley.recipe import (
    BatchConfig,
    CheckpointConfig,
    DataConfig,
    GrowthConfig,
    OptimizerConfig,
    Recipe,
    ScheduleConfig,
    SelectionConfig,
    ValidationConfig,
    load_recipe,
)

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [*([README] if README.exists() else []), *sorted((ROOT / "docs").rglob("*.md"))]
BENCHMARK_PAGES = sorted((ROOT / "benchmarks").glob("*.md"))
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))
CLUSTERS = sorted((ROOT / "clusters").glob("*.toml"))

SECTIONS: list[tuple[str, str, type]] = [
    ("recipe.md", "[model]", ModelConfig),
    ("recipe.md", "[model.rope_scaling]", RopeScaling),
    ("recipe.md", "[model.mixture]", MixtureOfExperts),
    ("recipe.md", "[model.latent]", LatentAttention),
    ("recipe.md", "[data]", DataConfig),
    ("recipe.md", "[batch]", BatchConfig),
    ("recipe.md", "[optimizer]", OptimizerConfig),
    ("recipe.md", "[schedule]", ScheduleConfig),
    ("recipe.md", "[validation]", ValidationConfig),
    ("recipe.md", "[checkpoint]", CheckpointConfig),
    ("recipe.md", "[growth]", GrowthConfig),
    ("recipe.md", "[selection]", SelectionConfig),
    ("cluster.md", "[[chip]]", Chip),
    ("cluster.md", "[[group]]", Group),
    ("cluster.md", "[[link]]", Link),
]
NOT_FIELDS: dict[str, dict[str, Any]] = {
    "[[chip]]": {"count": 1},
    "[[link]]": {"gbit_per_s": None},
    "[model]": {"preset": None},
}
"""Keys that the reader of the file takes itself."""

PAIRS = [
    ("demo", "demo"),
    ("demo", "emulated-pipeline"),
    ("frugal", "demo"),
    ("gpt2-adamw", "demo"),
    ("llama3-small", "demo"),
    ("llama3-small", "mixed-drawer"),
    ("gpt2-124m", "mixed-drawer"),
    ("qwen3-0.6b", "mixed-drawer"),
    ("gpt2-124m", "two-sites"),
    ("gpt2-124m", "thousand-chips"),
]


def id_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def section_keys(page: str, heading: str) -> dict[str, str]:
    """Key to default, as the table under a heading gives them."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    body = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", body, re.MULTILINE)
    return {key: default.strip() for key, default in rows}


def written_default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return "required"


def read_default(cell: str, hint: Any) -> Any:
    """The value that a table's cell means."""
    if cell in ("required", "unset"):
        return None if cell == "unset" else cell
    value = tomllib.loads(f"value = {cell.strip('`')}")["value"]
    return tuple(value) if typing.get_origin(hint) is tuple else value


@pytest.mark.parametrize(("page", "table", "kind"), SECTIONS, ids=[part[1] for part in SECTIONS])
def test_every_key_is_documented_with_its_default(page: str, table: str, kind: type) -> None:
    documented = section_keys(page, f"`{table}`")
    extra = NOT_FIELDS.get(table, {})
    hints = typing.get_type_hints(kind)
    expected = {field.name: written_default(field) for field in dataclasses.fields(kind)} | extra
    assert documented.keys() == expected.keys()
    for key, cell in documented.items():
        assert read_default(cell, hints.get(key)) == expected[key], key


def test_the_top_level_of_both_files_is_documented() -> None:
    recipe = {field.name: written_default(field) for field in dataclasses.fields(Recipe)}
    tables = {heading.strip("[]") for page, heading, _ in SECTIONS if page == "recipe.md"}
    documented = section_keys("recipe.md", "Top level")
    assert documented.keys() | {name for name in tables if "." not in name} == recipe.keys()
    for key, cell in documented.items():
        assert read_default(cell, None) == recipe[key]
    assert section_keys("cluster.md", "Top level").keys() == {"name", "chip", "group", "link"}


@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_local_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), f"{target} is not there"
        if anchor:
            assert anchor in anchors(linked), f"{target}: no such heading"


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def code_blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of each fenced block."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"^ *```(\w*)\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """The lines of code blocks that call motley, continued lines joined."""
    lines = [
        line.strip().removeprefix("$ ")
        for _, block in code_blocks(page)
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return [line for line in lines if line.startswith("motley ")]


@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_names_of_the_library_exist(page: Path) -> None:
    for name in re.findall(r"`(motley(?:\.\w+)+)`", page.read_text(encoding="utf-8")):
        assert pkgutil.resolve_name(name) is not None


@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_commands_parse(page: Path) -> None:
    """Verb, options and arguments of each command exist; nothing is run."""
    group: Any = typer.main.get_command(app)
    for line in commands(page):
        words = shlex.split(line, comments=True)
        end = next((at for at, word in enumerate(words) if word in ("&&", "|", ">")), len(words))
        context = group.make_context("motley", [*words[1:end]])
        name, command, rest = group.resolve_command(context, words[1:end])
        command.make_context(name, rest, parent=context)


SCRIPT_COMMAND = re.compile(r"python (benchmarks/\w+\.py)((?:[ \n]+[^`|#\n]+)?)")


@pytest.mark.parametrize("page", [*PAGES, *BENCHMARK_PAGES], ids=id_of)
def test_commands_of_benchmarks_exist_with_their_options(page: Path) -> None:
    for script, words in SCRIPT_COMMAND.findall(page.read_text(encoding="utf-8")):
        source = (ROOT / script).read_text(encoding="utf-8")
        for option in re.findall(r"--[a-z][\w-]*", words):
            assert f'"{option}"' in source, f"{script} has no {option}"


def test_every_benchmark_is_listed() -> None:
    listed = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    for script in (ROOT / "benchmarks").glob("*.py"):
        assert f"`{script.name}" in listed or f"/{script.name}" in listed, script.name


@pytest.mark.parametrize("page", [*PAGES, *BENCHMARK_PAGES], ids=id_of)
def test_records_that_are_named_exist(page: Path) -> None:
    for record in re.findall(r"`(benchmarks/results/[\w.]+)`", page.read_text(encoding="utf-8")):
        assert (ROOT / record).exists(), record


def test_a_command_with_a_wrong_option_would_be_found() -> None:
    group: Any = typer.main.get_command(app)
    with pytest.raises(Exception, match="--clusters"):
        group.commands["plan"].make_context("plan", ["recipe.toml", "--clusters", "x"])


@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_toml_examples_are_valid(page: Path) -> None:
    for language, block in code_blocks(page):
        if language == "toml":
            table = tomllib.loads(block)
            if "chip" in table:
                parse_cluster(table)


def test_all_examples_are_listed_and_in_a_pair() -> None:
    recipes = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    clusters = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    for path in RECIPES:
        assert f"../recipes/{path.name}" in recipes
    for path in CLUSTERS:
        assert f"../clusters/{path.name}" in clusters
    assert {path.stem for path in RECIPES} == {recipe for recipe, _ in PAIRS}
    assert {path.stem for path in CLUSTERS} == {cluster for _, cluster in PAIRS}


def plan_pair(recipe: str, cluster: str) -> tuple[Recipe, Cluster, Plan]:
    """The vocabulary is the one that the recipe asks for, so no text is tokenized."""
    loaded = load_recipe(ROOT / "recipes" / f"{recipe}.toml")
    loaded = loaded.with_vocabulary(loaded.data.vocab_size)
    chips = load_cluster(ROOT / "clusters" / f"{cluster}.toml")
    return loaded, chips, search(loaded, chips)


@pytest.mark.parametrize(("recipe", "cluster"), PAIRS)
def test_examples_can_be_planned(recipe: str, cluster: str) -> None:
    loaded, chips, plan = plan_pair(recipe, cluster)
    validate(plan, loaded, chips)
    assert plan.tokens_per_s > 0


def test_the_pipeline_example_forces_a_pipeline() -> None:
    """Its two smallest chips hold no whole copy of the model, and are used all the same."""
    recipe, cluster, plan = plan_pair("demo", "emulated-pipeline")
    small = {chip.name for chip in cluster.chips if chip.memory_bytes < 10**8}
    assert len(small) == 2
    assert 12 * model_counts(recipe.model, 1).parameters > 16e6
    for replica in plan.replicas:
        assert not small >= {stage.chip for stage in replica.stages} or len(replica.stages) > 1
    assert not small & set(plan.idle_chips)


@pytest.mark.parametrize(
    ("recipe", "preset"), [("gpt2-124m", "gpt2"), ("qwen3-0.6b", "qwen3-0.6b")]
)
def test_named_models_have_their_public_shape(recipe: str, preset: str) -> None:
    assert load_recipe(ROOT / "recipes" / f"{recipe}.toml").model == PRESETS[preset]


def test_quoted_chips_say_what_the_catalog_says() -> None:
    cluster = load_cluster(ROOT / "clusters" / "mixed-drawer.toml")
    for chip in cluster.chips:
        row = look_up(chip.kind)
        assert chip.source == "quoted"
        for precision, rate in chip.flops_per_s.items():
            assert rate == row.peak_flops_per_s(precision), f"{chip.name} {precision}"
        assert chip.memory_bytes == row.memory_bytes
        assert row.mem_bandwidth_gbps is not None
        assert chip.memory_bandwidth_bytes_per_s == row.mem_bandwidth_gbps * 1e9
