"""The cluster: chips and links by name, the most particular link of a pair, strict about all."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley.chips.catalog import look_up
from motley.chips.chip import Chip, Link
from motley.cluster import LOOPBACK, Cluster, check_devices, load_cluster, parse_cluster
from motley.errors import ClusterError, UnknownChipError

ROOT = Path(__file__).parents[2]


def chip(name: str = "a", **values: Any) -> dict[str, Any]:
    return {
        "name": name,
        "kind": "test",
        "flops_per_s": {"fp32": 1e9},
        "memory_bytes": 10**9,
        "memory_bandwidth_bytes_per_s": 1e9,
        **values,
    }


def link(first: str, second: str, bandwidth: float = 1e9, **values: Any) -> dict[str, Any]:
    return {"between": [first, second], "bandwidth_bytes_per_s": bandwidth, **values}


def cluster(*chips: dict[str, Any], links: tuple[dict[str, Any], ...] = ()) -> Cluster:
    return parse_cluster({"chip": list(chips), "link": list(links)})


def refused(table: dict[str, Any]) -> str:
    with pytest.raises(ClusterError) as caught:
        parse_cluster(table)
    return str(caught.value)


def bandwidth(made: Cluster, first: str, second: str) -> float:
    return made.link(first, second).bandwidth_bytes_per_s


names = st.text(min_size=1, max_size=6).filter(lambda name: name != "*")
rates = st.floats(min_value=1, max_value=1e18)
chips = st.builds(
    Chip,
    name=names,
    kind=names,
    node=st.sampled_from(["n", "m"]),
    emulated=st.booleans(),
    flops_per_s=st.fixed_dictionaries({"fp32": rates}, optional={"bf16": rates}),
    training_efficiency=st.floats(min_value=0.01, max_value=1),
    memory_bytes=st.integers(1, 2**50),
    memory_bandwidth_bytes_per_s=rates,
    usd_per_hour=st.none() | st.floats(min_value=1e-6, max_value=1e6),
    source=st.sampled_from(["measured", "quoted", "predicted", "emulated"]),
)


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    made = draw(st.lists(chips, min_size=1, max_size=5, unique_by=lambda one: one.name))
    ends = sorted({name for one in made for name in (one.name, one.node)} | {"*"})
    pairs = list(itertools.combinations_with_replacement(ends, 2))
    chosen = draw(st.lists(st.sampled_from(pairs), max_size=4, unique=True))
    links = tuple(
        Link(between=pair, bandwidth_bytes_per_s=draw(rates), latency_s=draw(st.floats(0, 10)))
        for pair in chosen
    )
    return Cluster(name=draw(names), chips=tuple(made), links=links)


@given(clusters())
def test_a_cluster_is_read_back_as_it_was_written(made: Cluster) -> None:
    written = json.loads(json.dumps(made.to_dict()))
    assert parse_cluster(written) == made
    assert parse_cluster(written).digest == made.digest


@given(clusters())
def test_a_link_is_the_same_in_both_directions(made: Cluster) -> None:
    for first, second in itertools.product([one.name for one in made.chips], repeat=2):
        assert made.link(first, second) == made.link(second, first)


@given(clusters(), st.data())
def test_without_leaves_a_whole_cluster(made: Cluster, data: st.DataObject) -> None:
    lost = data.draw(st.sets(st.sampled_from([one.name for one in made.chips])))
    left = made.without(lost)
    assert [one for one in made.chips if one.name not in lost] == list(left.chips)
    if left.chips:
        assert parse_cluster(left.to_dict()) == left
    for first, second in itertools.permutations([one.name for one in left.chips], 2):
        assert left.link(first, second) == made.link(first, second)


def test_count_makes_alike_chips_with_numbered_names() -> None:
    made = cluster(chip("big"), chip("weak", count=3, usd_per_hour=2))
    assert [one.name for one in made.chips] == ["big", "weak-0", "weak-1", "weak-2"]
    assert {one.usd_per_hour for one in made.chips[1:]} == {2.0}
    assert [one.name for one in cluster(chip("a", count=1)).chips] == ["a"]


def test_two_kinds_of_a_chip_have_two_digests() -> None:
    assert cluster(chip("a")).digest != cluster(chip("a", usd_per_hour=1)).digest
    assert cluster(chip("a")).digest == cluster(chip("a")).digest


@pytest.mark.parametrize("backwards", [False, True])
def test_the_most_particular_link_counts(backwards: bool) -> None:
    links = [
        link("*", "*", 1),
        link("*", "n", 2),
        link("n", "m", 3),
        link("a", "*", 4.5),
        link("a", "m", 5),
        link("a", "c", 6),
    ]
    made = cluster(
        chip("a", node="n"), chip("b", node="n"), chip("c", node="m"), chip("d", node="m"),
        chip("e", node="o"), chip("f", node="o"),
        links=tuple(reversed(links) if backwards else links),
    )  # fmt: skip
    assert bandwidth(made, "a", "c") == 6  # the chips themselves
    assert bandwidth(made, "d", "a") == 5  # a chip and a node
    assert bandwidth(made, "b", "d") == 3  # two nodes
    assert bandwidth(made, "a", "e") == 4.5  # one chip
    assert bandwidth(made, "b", "e") == 2  # one node
    assert bandwidth(made, "e", "f") == 1  # all


def test_a_node_named_twice_is_the_link_inside_it() -> None:
    made = cluster(
        chip("a", node="n"), chip("b", node="n"), chip("c", node="m"),
        links=(link("n", "n", 9), link("*", "*", 1)),
    )  # fmt: skip
    assert bandwidth(made, "a", "b") == 9
    assert bandwidth(made, "a", "c") == 1


def test_without_any_link_the_assumed_one_counts_and_says_that_it_is_assumed() -> None:
    made = cluster(chip("a"), chip("b"))
    assert made.link("a", "b") == LOOPBACK
    assert LOOPBACK.source == "predicted"


def test_an_unknown_chip_is_named_with_the_nearest() -> None:
    made = cluster(chip("strong"), chip("weak"))
    with pytest.raises(ClusterError, match=r"has no chip 'weka'\.\nDid you mean 'weak'\?"):
        made.chip("weka")
    with pytest.raises(ClusterError, match=r"has no chip 'zzz'\.\nIt has strong, weak\."):
        made.link("strong", "zzz")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "cluster: no chips.\nAdd a [[chip]] or a [[group]] table."),
        ({"chip": []}, "cluster: no chips.\nAdd a [[chip]] or a [[group]] table."),
        ({"chip": chip()}, "cluster: 'chip' must be given as [[chip]] tables."),
        ({"chip": [3]}, "cluster: 'chip' must be given as [[chip]] tables."),
        ({"chips": [chip()]}, "cluster: unknown key 'chips'.\nDid you mean 'chip'?"),
        ({"name": 7, "chip": [chip()]}, "cluster.name: expected a text, found 7."),
        (
            {"chip": [chip(), chip("b", memory_byts=1)]},
            "cluster: chip 2: unknown key 'memory_byts'.\nDid you mean 'memory_bytes'?",
        ),
        (
            {"chip": [chip(flops_per_s={"fp32": 1, "bf61": 1})]},
            "cluster: chip 1.flops_per_s: 'bf61' is not one of 'fp32', 'bf16', 'fp16', 'fp8'.\n"
            "Did you mean 'bf16'?",
        ),
        (
            {"chip": [chip(precision="bf16")]},
            "cluster: chip 1.precision: 'bf16' has no rate in flops_per_s of chip 'a'",
        ),
        ({"chip": [chip(), chip()]}, "cluster: 2 chips are named 'a'.\nGive each its own name."),
        (
            {"chip": [chip("a-1"), chip("a", count=2)]},
            "cluster: 2 chips are named 'a-1'.\nGive each its own name.",
        ),
        ({"chip": [chip("*")]}, "cluster: a chip cannot be named '*'.\nName it."),
        ({"chip": [chip("")]}, "cluster: a chip cannot be named ''.\nName it."),
        (
            {"chip": [chip("alpha")], "link": [link("alpha", "alpah")]},
            "cluster: link names unknown 'alpah'.\nDid you mean 'alpha'?",
        ),
        (
            {"chip": [chip("alpha")], "link": [link("alpha", "zz")]},
            "cluster: link names unknown 'zz'.\nName a chip, a node, a site or '*'.",
        ),
        (
            {"chip": [chip("a"), chip("b")], "link": [link("a", "b"), link("b", "a")]},
            "cluster: two links between 'a' and 'b'.\nKeep one.",
        ),
        (
            {"chip": [chip("a")], "link": [{**link("a", "*"), "between": ["a"]}]},
            "cluster: link 1.between: needs two names, found 1",
        ),
    ],
)
def test_what_is_wrong_is_named(table: dict[str, Any], message: str) -> None:
    assert refused(table) == message


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), 10**400])
@pytest.mark.parametrize(
    "name", ["memory_bytes", "memory_bandwidth_bytes_per_s", "training_efficiency"]
)
def test_a_chips_figure_out_of_range_is_refused_by_its_name(name: str, value: float) -> None:
    message = refused({"chip": [{**chip(), name: value}]})
    assert message.startswith(f"cluster: chip 1.{name}: ")


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_rate_out_of_range_is_refused_by_its_precision(value: float) -> None:
    message = refused({"chip": [chip(flops_per_s={"fp32": value})]})
    assert message.startswith("cluster: chip 1.flops_per_s.fp32: ")


@pytest.mark.parametrize("value", [0, -0.01, float("nan"), float("inf")])
def test_a_price_out_of_range_is_refused(value: float) -> None:
    message = refused({"chip": [chip(usd_per_hour=value)]})
    assert message.startswith("cluster: chip 1.usd_per_hour: ")


@pytest.mark.parametrize("value", [0, -2, 1.5, True, "2", 10**9])
def test_a_count_out_of_range_is_refused(value: Any) -> None:
    message = refused({"chip": [chip(count=value)]})
    assert message.startswith("cluster: chip 1.count: must be a whole number from 1 to 100000")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bandwidth_bytes_per_s", 0), ("bandwidth_bytes_per_s", -1),
        ("bandwidth_bytes_per_s", float("nan")), ("bandwidth_bytes_per_s", float("inf")),
        ("latency_s", -1e-6), ("latency_s", float("nan")), ("latency_s", float("inf")),
    ],
)  # fmt: skip
def test_a_links_figure_out_of_range_is_refused_by_its_name(name: str, value: float) -> None:
    table = {"chip": [chip()], "link": [{**link("a", "*"), name: value}]}
    assert refused(table).startswith(f"cluster: link 1.{name}: ")


def test_seconds_of_a_chip_and_a_link() -> None:
    """The roofline: the slower of compute and memory; a link adds its latency."""
    one = cluster(chip(flops_per_s={"fp32": 8e9}, training_efficiency=0.5)).chips[0]
    assert one.seconds(8e9) == 2.0
    assert one.seconds(8e9, 3e9) == 3.0
    assert Link(bandwidth_bytes_per_s=1e6, latency_s=0.5).seconds(2e6) == 2.5


@pytest.mark.parametrize("path", sorted((ROOT / "clusters").glob("*.toml")), ids=lambda p: p.name)
def test_the_clusters_that_ship_are_whole(path: Path) -> None:
    made = load_cluster(path)
    assert parse_cluster(made.to_dict()) == made


def test_some_cluster_ships() -> None:
    assert (ROOT / "clusters" / "demo.toml").is_file()


def test_a_catalog_chip_needs_only_its_id() -> None:
    """The figures are the catalog's and quoted; what the user gives beats them."""
    table = {"chip": [{"name": "card", "kind": "rtx-3090", "memory_bytes": 20_000_000_000}]}
    (chip,) = parse_cluster(table).chips
    row = look_up("nvidia-rtx-3090")
    assert chip.kind == "nvidia-rtx-3090"
    assert chip.source == "quoted"
    assert chip.precision == "bf16"
    assert chip.flops_per_s["bf16"] == row.peak_flops_per_s("bf16")
    assert chip.memory_bytes == 20_000_000_000
    assert parse_cluster(parse_cluster(table).to_dict()).chips == (chip,)


def test_a_catalog_chip_without_bf16_trains_in_fp16() -> None:
    (chip,) = parse_cluster({"chip": [{"name": "card", "kind": "nvidia-t4"}]}).chips
    assert chip.precision == "fp16"


@pytest.mark.parametrize(
    ("kind", "hint"), [("rtx-3900", "nvidia-rtx-3090"), ("biren-br106", "Give ")]
)
def test_an_unknown_or_empty_catalog_row_is_refused(kind: str, hint: str) -> None:
    with pytest.raises(UnknownChipError) as raised:
        parse_cluster({"chip": [{"name": "card", "kind": kind}]})
    assert hint in str(raised.value)


def test_one_device_cannot_be_two_chips() -> None:
    entry = {"kind": "x", "flops_per_s": {"fp32": 1e12}, "memory_bytes": 1e9,
             "memory_bandwidth_bytes_per_s": 1e10, "device": "cuda:0"}  # fmt: skip
    with pytest.raises(ClusterError, match="both cuda:0"):
        check_devices(parse_cluster({"chip": [{"name": "a", **entry}, {"name": "b", **entry}]}))
