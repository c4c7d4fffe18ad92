"""The page of a plan: whole and safe for every kind of plan, bounded, and as a browser shows it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from motley.chips.chip import Chip, Link
from motley.cluster import Cluster, load_cluster, parse_cluster
from motley.errors import ClusterError, StorageError
from motley.plan.explain.more import TOKENS_PER_S, USD_PER_BILLION_TOKENS, OneMore
from motley.plan.given import predict_given
from motley.plan.plan import Plan, Replica, Stage
from motley.plan.search.search import search
from motley.plan.simulate import simulate
from motley.plan.stack import MOTLEY
from motley.plan.timing.schedule import Schedule
from motley.recipe import Recipe
from motley.report.cluster_shape import site_paths, sites_of
from motley.report.plan_copies import copies_of
from motley.report.plan_page import plan_html, write_plan_page
from motley.report.split_drawing import memory_parts
from motley.report.step_drawing import LAYERS_DRAWN, column_shares
from motley.report.step_rows import rows_of
from motley.report.svg import Scale
from page_browser import Outline, probe
from plan_cases import ETHERNET, make_chip, make_cluster, make_recipe

CLUSTERS = Path(__file__).parents[2] / "clusters"
EVIL = '<script>alert("x")</script>&\'"'
LARGEST_BYTES = 2_000_000
SECTIONS = ["cluster", "split", "step", "frontier", "why", "sources"]


@dataclasses.dataclass(frozen=True)
class Point:
    """A plan of a frontier."""

    step_s: float
    tokens_per_s: float
    usd_per_hour: float | None
    usd_per_billion_tokens: float | None
    num_chips: int
    label: str
    plan: Plan


Case = tuple[Plan, Recipe, Cluster]


def grouped(num_groups: int, per_group: int) -> Cluster:
    """Groups of emulated chips, each a node of its own."""
    made = make_chip("x", 1e12)
    chips = [
        dataclasses.replace(made, name=f"n{group}.{index}", node=f"n{group}")
        for group in range(num_groups)
        for index in range(per_group)
    ]
    return Cluster(name="groups", chips=tuple(chips), links=(ETHERNET,))


def piped(
    schedule: Schedule,
    *,
    num_groups: int = 4,
    per_group: int = 2,
    turns: int = 1,
    batch: int = 32,
    copies: int = 1,
) -> Case:
    """Pipelines over `num_groups` groups of chips that hold `turns` stages of two layers each."""
    num_stages = num_groups * turns
    recipe = make_recipe(layers=2 * num_stages - 2, global_batch=batch * copies)
    cluster = grouped(num_groups * copies, per_group)

    def replica(copy: int) -> Replica:
        stages = tuple(
            Stage(
                chips=tuple(f"n{copy * num_groups + place % num_groups}.{i}"
                            for i in range(per_group)),
                first_layer=2 * place, last_layer=2 * place + 2, precision="fp32", data=per_group,
            )
            for place in range(num_stages)
        )  # fmt: skip
        return Replica(stages=stages, num_samples=batch, micro_batch_size=2, schedule=schedule)

    plan = Plan(
        recipe_digest=recipe.digest,
        cluster_digest=cluster.digest,
        replicas=tuple(replica(copy) for copy in range(copies)),
    )
    return predict_given(plan, recipe, cluster)[0], recipe, cluster


@cache
def searched(name: str) -> Case:
    """What `search` makes of an example cluster with a small model."""
    cluster = load_cluster(CLUSTERS / f"{name}.toml")
    recipe = make_recipe()
    return search(recipe, cluster), recipe, cluster


@cache
def catalog_case() -> Case:
    """Two kinds of catalog chips in two sites; one price is unknown."""
    cluster = parse_cluster(
        {
            "name": "catalog",
            "group": [
                {"kind": "a100-sxm-80g", "count": 2, "site": "cloud"},
                {"kind": "v100-sxm2-32g", "count": 2, "site": "cellar"},
            ],
            "link": [
                {"between": ["cloud", "cellar"], "gbit_per_s": 10, "latency_s": 0.02,
                 "usd_per_gb": 0.05, "price_source": "a bill"},
            ],
        }
    )  # fmt: skip
    recipe = make_recipe(width=256)
    return search(recipe, cluster), recipe, cluster


def lone() -> Case:
    recipe, cluster = make_recipe(), make_cluster([1e12])
    return search(recipe, cluster), recipe, cluster


CASES = {
    "demo": lambda: searched("demo"),
    "mixed drawer": lambda: searched("mixed-drawer"),
    "catalog": catalog_case,
    "one chip": lone,
    "interleaved": lambda: piped("interleaved", turns=3),
    "zero bubble": lambda: piped("zero-bubble"),
    "many micro-batches": lambda: piped("1f1b", batch=2000),
}


def points(case: Case, *, is_priced: bool) -> Sequence[Point]:
    plan = case[0]
    slower = dataclasses.replace(plan, replicas=())
    return [
        Point(
            step_s=plan.step_s / share,
            tokens_per_s=plan.tokens_per_s * share,
            usd_per_hour=2.0 if is_priced else None,
            usd_per_billion_tokens=100.0 * share**2 if is_priced else None,
            num_chips=index + 1,
            label=f"{index + 1} x a",
            plan=plan if share == 1 else slower,
        )
        for index, share in enumerate((0.5, 0.8, 1.0))
    ]


def page_of(case: Case, unit: str = TOKENS_PER_S) -> str:
    plan, recipe, cluster = case
    more = [
        OneMore(kind="nvidia-a100-sxm-80g", unit=unit, reached=12.5, gain=0.1),
        OneMore(kind="b", unit=unit, reached=13.75, gain=0.0),
    ]
    return plan_html(plan, recipe, cluster, frontier=points(case, is_priced=True), one_more=more)


@pytest.mark.parametrize("name", CASES)
def test_the_page_is_whole_for_every_kind_of_plan(name: str) -> None:
    page = page_of(CASES[name]())
    outline = Outline(page)
    assert outline.open == []
    assert set(SECTIONS) <= set(outline.ids)
    assert len(outline.ids) == len(set(outline.ids))
    assert all(link.startswith("https://") for link in outline.links)
    assert not re.search(r"@import|src=|[\"' :>]nan[\"'%;, ]|>None<", page)
    assert len(page) < LARGEST_BYTES


def test_parts_that_are_not_given_are_left_out() -> None:
    page = plan_html(*lone())
    assert 'id="frontier"' not in page
    assert "one more chip" not in page


@pytest.mark.parametrize(
    ("unit", "words"),
    [
        (TOKENS_PER_S, ("+10.0 %, 12.5 tokens/s", "nothing, 13.8 tokens/s")),
        (
            USD_PER_BILLION_TOKENS,
            ("-10.0 %, 12.5 USD per billion tokens", "nothing, 13.75 USD per billion tokens"),
        ),
    ],
)
def test_one_more_chip_is_told_in_the_unit_of_the_goal(unit: str, words: Sequence[str]) -> None:
    page = page_of(lone(), unit)
    for each in words:
        assert page.count(each) >= 2


def test_every_text_is_escaped() -> None:
    chips = tuple(
        dataclasses.replace(make_chip(f"{EVIL}{index}", 1e12), kind=EVIL, node=EVIL, site=EVIL * 2)
        for index in range(2)
    )
    link = Link(bandwidth_bytes_per_s=1e9, kind=EVIL, usd_per_gb=1.0, price_source=EVIL)
    cluster = Cluster(name=EVIL, chips=chips, links=(link,))
    recipe = dataclasses.replace(make_recipe(), name="x&<b>y")
    plan = search(recipe, cluster)
    case = dataclasses.replace(plan, reasons=(EVIL,)), recipe, cluster
    outline = Outline(page_of(case))
    assert outline.num_scripts == 1
    assert outline.open == []


def test_only_web_addresses_become_links() -> None:
    plan, recipe, cluster = lone()
    source = "javascript:alert(1) https://a.example/b?c (May)"
    chips = tuple(
        dataclasses.replace(chip, usd_per_hour=1.0, price_source=source) for chip in cluster.chips
    )
    page = plan_html(plan, recipe, dataclasses.replace(cluster, chips=chips))
    assert set(Outline(page).links) == {"https://a.example/b?c"}


def test_alike_nodes_are_drawn_once() -> None:
    groups = [
        {"kind": "h100-sxm-80g", "name": "h", "count": 8000, "per_node": 8,
         "network_gbit_per_s": 3200},
        {"kind": "rtx-4090", "name": "r", "count": 2000, "per_node": 8, "network_gbit_per_s": 100},
    ]  # fmt: skip
    cluster = parse_cluster({"group": groups})
    (site,) = sites_of(cluster)
    assert [(len(each.nodes), dict(each.chips)) for each in site.alike] == [
        (1000, {"nvidia-h100-sxm-80g": 8}),
        (250, {"nvidia-rtx-4090": 8}),
    ]
    ((path, pairs),) = site.across
    assert path.bandwidth_bytes_per_s == 12.5e9
    assert len(pairs) == 1
    plan, recipe, _ = lone()
    stage = dataclasses.replace(plan.replicas[0].stages[0], chips=("h-0.0",), precision="bf16")
    replica = dataclasses.replace(plan.replicas[0], stages=(stage,))
    page = plan_html(dataclasses.replace(plan, replicas=(replica,)), recipe, cluster)
    assert len(page) < 100_000
    assert "7999 idle" in page


def test_a_node_with_a_link_of_its_own_stays_by_itself() -> None:
    cluster = grouped(4, 2)
    named = dataclasses.replace(ETHERNET, between=("n1", "n2"), bandwidth_bytes_per_s=5e9)
    linked = dataclasses.replace(cluster, links=(*cluster.links, named))
    (site,) = sites_of(linked)
    assert [[node.name for node in each.nodes] for each in site.alike] == [
        ["n0", "n3"], ["n1"], ["n2"],
    ]  # fmt: skip
    fastest, pairs = site.across[0]
    assert (fastest.bandwidth_bytes_per_s, pairs) == (5e9, (("n1", "n2"),))


def test_paths_between_sites_have_prices() -> None:
    _, _, cluster = catalog_case()
    (path,) = site_paths(cluster, sites_of(cluster))
    assert {path.first, path.second} == {"cloud", "cellar"}
    assert path.usd_per_gb == 0.05
    assert path.path.bandwidth_bytes_per_s == 1.25e9


def test_unknown_prices_and_their_reason_are_said() -> None:
    case = catalog_case()
    plan, recipe, cluster = case
    page = plan_html(plan, recipe, cluster, frontier=points(case, is_priced=False))
    assert "unknown per chip-hour" in page
    assert "drawn against the number of chips" in page
    assert "chips that work</p>" in page


@pytest.mark.parametrize("name", CASES)
def test_rows_fill_the_step_and_keep_every_pass(name: str) -> None:
    plan, recipe, cluster = CASES[name]()
    simulation = simulate(plan, recipe, cluster)
    rows = rows_of(plan, simulation)
    groups = {(r, stage.chips) for r, each in enumerate(plan.replicas) for stage in each.stages}
    assert sum(len(row.replicas) for row in rows) == len(groups)
    passes = sum(span.kind not in ("wait", "sync") for span in simulation.spans)
    kept = sum(len(row.replicas) * sum(span.kind != "wait" for span in row.spans) for row in rows)
    assert kept == sum(
        1 for span in simulation.spans
        if span.kind not in ("wait", "sync") and span.end_s > span.start_s
    ) <= passes  # fmt: skip
    for row in rows:
        assert row.spans[0].start_s == 0
        assert row.spans[-1].end_s == pytest.approx(simulation.step_s)
        for before, after in zip(row.spans, row.spans[1:], strict=False):
            assert after.start_s >= before.end_s - 1e-12
        assert row.share(*LAYERS_DRAWN, "wait") == pytest.approx(1)


def test_columns_keep_the_time_of_every_kind() -> None:
    plan, recipe, cluster = CASES["many micro-batches"]()
    simulation = simulate(plan, recipe, cluster)
    row = rows_of(plan, simulation)[0]
    shares = column_shares(row.spans, Scale(0.0, simulation.step_s), 50)
    for kind in LAYERS_DRAWN:
        assert sum(shares[kind]) / 50 == pytest.approx(row.share(kind))


def test_alike_replicas_are_drawn_once() -> None:
    plan, recipe, cluster = piped("1f1b", copies=6)
    (copies,) = copies_of(plan, recipe, cluster, MOTLEY)
    assert copies.indices == (0, 1, 2, 3, 4, 5)
    assert "replica 0 and 5 alike" in plan_html(plan, recipe, cluster)


@pytest.mark.parametrize("name", CASES)
def test_parts_of_memory_add_up_to_what_the_plan_says(name: str) -> None:
    plan, recipe, cluster = CASES[name]()
    said = {stage.chips: stage.memory_bytes for each in plan.replicas for stage in each.stages}
    for copies in copies_of(plan, recipe, cluster, MOTLEY):
        for part in copies.parts:
            assert sum(memory_parts(part.memory)) == part.memory.total_bytes
            assert part.memory.total_bytes == said[part.chips]


def test_what_does_not_fit_is_said_at_the_top() -> None:
    plan, recipe, cluster = lone()
    small: tuple[Chip, ...] = tuple(
        dataclasses.replace(chip, memory_bytes=2**20) for chip in cluster.chips
    )
    page = plan_html(plan, recipe, dataclasses.replace(cluster, chips=small))
    assert "Does not fit: a of replica 0 needs" in page


def test_the_longest_and_widest_steps_stay_small() -> None:
    deep = piped("1f1b", num_groups=70, per_group=1, batch=300)
    page = plan_html(*deep)
    assert len(page) < LARGEST_BYTES
    assert "22 further rows not drawn" in page


def test_the_page_is_written_whole(tmp_path: Path) -> None:
    path = write_plan_page(tmp_path / "plan.html", *lone())
    assert path.read_text(encoding="utf-8").endswith("</html>\n")
    assert [item.name for item in tmp_path.iterdir()] == ["plan.html"]


def test_a_page_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "plan.html").mkdir()
    for target in (tmp_path / "plan.html", tmp_path / "missing" / "plan.html"):
        with pytest.raises(StorageError, match="cannot be written"):
            write_plan_page(target, *lone())
    assert [item.name for item in tmp_path.iterdir()] == ["plan.html"]


def test_a_plan_of_another_cluster_is_one_error(tmp_path: Path) -> None:
    plan, recipe, _ = lone()
    with pytest.raises(ClusterError, match="has no chip 'a'"):
        write_plan_page(tmp_path / "plan.html", plan, recipe, grouped(1, 1))


PROBE = """
  const tips = (selector) => {
    const element = document.querySelector(selector);
    const box = element.getBoundingClientRect();
    element.dispatchEvent(new PointerEvent("pointermove", {
      bubbles: true, clientX: box.left + box.width / 2, clientY: box.top + box.height / 2}));
    return document.getElementById("tip").textContent;
  };
  found.stageTip = tips(".stage");
  found.memoryTip = tips(".gauge .bar");
  found.spanTip = tips(".timeline.whole rect.forward, .timeline.begin rect.forward");
  const shown = () => [...document.querySelectorAll(".timeline")].filter(
    (drawing) => drawing.offsetHeight > 0).map((drawing) => drawing.className);
  found.before = shown();
  const end = document.getElementById("view-end");
  if (end) end.click();
  found.after = shown();
  found.focusable = document.querySelectorAll("[tabindex='0']").length;
"""
INSIDE = (
    "h1, h2, h3, .fact, .bar, .lanes, .legend li, .who, .node, .path, .stage, .gauge, .dot-mark"
)


@pytest.mark.parametrize(
    ("name", "width"),
    [("catalog", 1400), ("catalog", 400), ("interleaved", 1400), ("many micro-batches", 400)],
)
def test_a_browser_shows_the_page(tmp_path: Path, name: str, width: int) -> None:
    page = page_of(CASES[name]())
    found = probe(tmp_path, page, width, PROBE, INSIDE)
    assert found["inner"] == width
    assert found["wide"] <= found["own"]
    assert found["outside"] == []
    assert found["sections"] == SECTIONS
    assert re.match(r"replica 0.*: .*layers? 0.*; .*micro-batch", found["stageTip"])
    assert re.match(r"memory of one chip, predicted: .* of ", found["memoryTip"])
    assert found["before"] == ["timeline one-lane whole"]
    if name == "many micro-batches":
        assert found["after"] == ["timeline one-lane end"]
    assert re.match(r"forward of micro-batch \d+, ", found["spanTip"])
    assert found["focusable"] > 8
