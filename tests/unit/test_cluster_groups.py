"""Groups of catalog chips: nodes, sites, paths, prices, and what contradicts itself."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley.chips.catalog import catalog, look_up
from motley.chips.chip import Link
from motley.chips.quoted_link import quoted_link
from motley.cluster import Cluster, Spread, check_devices, parse_cluster
from motley.errors import ClusterError, MotleyError, UnknownChipError

KINDS = ("rtx-4090", "a100-sxm-80g", "v100-sxm2-32g", "mi300x-192g")
GIGABIT = 1e9 / 8


def group(**values: Any) -> dict[str, Any]:
    return {"kind": "rtx-4090", "count": 8, "nodes": 2, "network_gbit_per_s": 100, **values}


def cluster(*groups: dict[str, Any], links: tuple[dict[str, Any], ...] = ()) -> Cluster:
    return parse_cluster({"group": list(groups), "link": list(links)})


def refused(*groups: dict[str, Any], **tables: Any) -> str:
    with pytest.raises(MotleyError) as caught:
        parse_cluster({"group": list(groups), **tables})
    return str(caught.value)


def wan(first: str, second: str, **values: Any) -> dict[str, Any]:
    return {"between": [first, second], "gbit_per_s": 10, "latency_s": 0.02, **values}


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    sites = draw(st.sampled_from([("x",), ("x", "y"), ("x", "y", "z")]))
    groups = []
    for index in range(draw(st.integers(len(sites), 4))):
        sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
        groups.append(
            {
                "name": f"g{index}",
                "kind": draw(st.sampled_from(KINDS)),
                "per_node": sizes,
                "site": sites[index % len(sites)],
                "network_gbit_per_s": draw(st.sampled_from([1, 10, 100, 400])),
                "network_latency_s": draw(st.sampled_from([0, 1e-5, 1e-4])),
            }
        )
    links = [wan(*pair, usd_per_gb=0.1) for pair in itertools.combinations(sites, 2)]
    links += draw(st.sampled_from([[], [wan("x", "x", gbit_per_s=5)]]))
    if "g1-1" in _nodes(groups):
        links += draw(st.sampled_from([[], [wan("g1-0", "g1-1", gbit_per_s=3)]]))
    if draw(st.booleans()):
        links.append(wan(_first_chip(groups[0]), "*", gbit_per_s=2))
    return cluster(*groups, links=tuple(links))


def _nodes(groups: list[dict[str, Any]]) -> set[str]:
    return {
        f"{each['name']}-{index}"
        for each in groups
        for index in range(len(each["per_node"]))
        if len(each["per_node"]) > 1
    }


def _first_chip(group: dict[str, Any]) -> str:
    return f"{group['name']}{'-0' if len(group['per_node']) > 1 else ''}.0"


@given(clusters())
def test_groups_are_read_back_from_the_chips_that_they_stand_for(made: Cluster) -> None:
    again = parse_cluster(json.loads(json.dumps(made.to_dict())))
    assert again == made
    assert again.digest == made.digest


@given(clusters(), st.data())
def test_a_spread_is_the_slowest_of_all_pairs(made: Cluster, data: st.DataObject) -> None:
    names = data.draw(
        st.lists(st.sampled_from([chip.name for chip in made.chips]), min_size=1, unique=True)
    )
    spread = made.spread(names)
    nodes = [made.chip(name).node for name in names]
    assert spread.num_chips == len(names)
    assert spread.per_node == max(nodes.count(node) for node in nodes)
    inside: list[Link] = []
    across: list[Link] = []
    for first, second in itertools.combinations(names, 2):
        alike = made.chip(first).node == made.chip(second).node
        (inside if alike else across).append(made.link(first, second))
    assert (spread.network is None) == (not across)
    for level, links in ((spread.local, inside), (spread.network, across)):
        if level is not None and links:
            assert level.bandwidth_bytes_per_s == min(one.bandwidth_bytes_per_s for one in links)
            assert level.latency_s == max(one.latency_s for one in links)


@given(clusters())
def test_paths_are_symmetric_and_no_wider_than_any_part(made: Cluster) -> None:
    declared = {tuple(sorted(link.between)): link for link in made.links}
    for first, second in itertools.combinations(made.chips, 2):
        link = made.link(first.name, second.name)
        assert link == made.link(second.name, first.name)
        parts = [declared.get(tuple(sorted((chip.node, "*")))) for chip in (first, second)]
        if link.between == ("*", "*"):
            for part in parts:
                assert part is not None
                assert link.bandwidth_bytes_per_s <= part.bandwidth_bytes_per_s
                assert link.latency_s >= part.latency_s


@given(clusters(), st.data())
def test_what_is_left_is_connected_as_before(made: Cluster, data: st.DataObject) -> None:
    lost = data.draw(st.sets(st.sampled_from([chip.name for chip in made.chips])))
    left = made.without(lost)
    for first, second in itertools.combinations([chip.name for chip in left.chips], 2):
        assert left.link(first, second) == made.link(first, second)


@given(clusters())
def test_nodes_and_sites_hold_every_chip_once(made: Cluster) -> None:
    held = [name for node in made.nodes.values() for each in node.chips.values() for name in each]
    assert sorted(held) == sorted(chip.name for chip in made.chips)
    for chip in made.chips:
        node = made.nodes[chip.node]
        assert chip.name in node.chips[chip.kind]
        assert node.site == chip.site
        assert chip.node in made.sites[chip.site]
    assert sum(node.num_chips for node in made.nodes.values()) == len(made.chips)


@given(
    st.fixed_dictionaries(
        {"kind": st.just("rtx-4090"), "network_gbit_per_s": st.just(1)},
        optional={
            "count": st.integers(-1, 9),
            "nodes": st.integers(-1, 4),
            "per_node": st.integers(-1, 4) | st.lists(st.integers(0, 4), max_size=3),
        },
    )
)
def test_sizes_agree_with_all_that_is_given_or_are_refused(entry: dict[str, Any]) -> None:
    try:
        made = cluster(entry)
    except ClusterError:
        assert "cluster: group 1" in refused(entry)
        return
    sizes = [node.num_chips for node in made.nodes.values()]
    assert entry.get("count", sum(sizes)) == sum(sizes)
    assert entry.get("nodes", len(sizes)) == len(sizes)
    per_node = entry.get("per_node") or sizes
    listed = per_node if isinstance(per_node, list) else [per_node]
    assert sizes == (listed * len(sizes) if len(listed) == 1 else listed)


def test_eight_cards_in_two_nodes() -> None:
    made = cluster(group())
    row = look_up("nvidia-rtx-4090")
    assert [chip.name for chip in made.chips[3:5]] == ["rtx-4090-0.3", "rtx-4090-1.0"]
    assert [chip.device for chip in made.chips[3:5]] == ["cuda:3", "cuda:0"]
    check_devices(made)
    inside = made.link("rtx-4090-0.0", "rtx-4090-0.3")
    assert (inside.kind, inside.bandwidth_bytes_per_s) == ("PCIe 4.0 x16", 31e9)
    assert (inside.source, inside.origin) == ("quoted", row.origin_of("link_gbps"))
    across = made.link("rtx-4090-0.0", "rtx-4090-1.0")
    assert (across.bandwidth_bytes_per_s, across.latency_s) == (100 * GIGABIT, 5e-5)
    chip = made.chips[0]
    assert chip.power_w == row.tdp_w
    assert chip.flops_per_s["fp8"] == row.peak_flops_per_s("fp8")
    assert chip.precision == "bf16"
    assert chip.efficiency is not None
    names = [chip.name for chip in made.chips]
    assert made.spread(names) == Spread(8, 4, inside, across)
    assert made.spread(names[:4]) == Spread(4, 4, inside, None)
    assert made.spread([names[0], names[4]]) == Spread(2, 1, inside, across)


def test_a_path_between_groups_is_as_wide_as_the_narrower_network() -> None:
    made = cluster(
        group(name="wide", network_gbit_per_s=400, network_latency_s=8e-6),
        group(name="narrow", network_gbit_per_s=10),
    )
    link = made.link("wide-0.0", "narrow-1.0")
    assert (link.bandwidth_bytes_per_s, link.latency_s) == (10 * GIGABIT, 5e-5)


def test_a_path_between_sites_costs_by_the_gigabyte() -> None:
    groups = (group(name="a", site="here"), group(name="b", site="there", network_gbit_per_s=1))
    made = cluster(*groups, links=(wan("here", "there", usd_per_gb=0.05),))
    link = made.link("a-0.0", "b-0.0")
    assert (link.bandwidth_bytes_per_s, link.latency_s) == (1 * GIGABIT, 0.02)
    assert made.usd_per_gb("a-0.0", "b-0.0") == 0.05
    assert made.usd_per_gb("a-0.0", "a-1.0") == 0.0
    assert cluster(*groups, links=(wan("here", "there"),)).usd_per_gb("a-0.0", "b-0.0") is None
    free = cluster(*groups, links=(wan("here", "there", unmetered=True),))
    assert free.usd_per_gb("a-0.0", "b-0.0") == 0.0


def test_prices_keep_their_sources_and_an_unknown_one_stays_unknown() -> None:
    made = cluster(
        group(name="a"),
        group(name="b", usd_per_hour=0.2, price_source="my provider, 2026-11-02"),
        group(name="c", usd_per_hour=0.3),
        group(name="d", kind="v100-sxm2-32g", site="there"),
        links=(wan("local", "there", usd_per_gb=0.05, price_source="its page"),),
    )
    row = look_up("rtx-4090")
    assert [(price.usd, price.source) for price in made.prices] == [
        (row.cloud_usd_per_hour, row.cloud_source),
        (0.2, "my provider, 2026-11-02"),
        (0.3, "given in the cluster's file"),
        (None, None),
        (0.05, "its page"),
    ]
    texts = [str(price) for price in made.prices]
    assert texts[3] == "8 x nvidia-v100-sxm2-32g: price per chip-hour unknown"
    assert texts[4] == "local - there: 0.05 USD per GB sent (its page)"
    assert made.chips[-1].usd_per_hour is None


@pytest.mark.parametrize("value", [0, -0.1, 0.0])
def test_a_price_that_is_not_above_zero_is_refused(value: float) -> None:
    assert "usd_per_hour: a price must be above zero" in refused(group(usd_per_hour=value))
    links = [wan("*", "*", usd_per_gb=value)]
    assert "usd_per_gb: a price must be above zero" in refused(group(), link=links)


def test_a_table_for_the_inside_of_a_node_replaces_the_catalogs_link() -> None:
    inside = {"between": ["rtx-4090", "rtx-4090"], "bandwidth_bytes_per_s": 2e10}
    one_node = group(nodes=1)
    made = cluster(one_node, links=(inside,))
    assert made.link("rtx-4090.0", "rtx-4090.1").bandwidth_bytes_per_s == 2e10
    twice = refused({**one_node, "link_bandwidth_bytes_per_s": 3e10}, link=[inside])
    assert "two links between 'rtx-4090' and 'rtx-4090'" in twice


def test_what_the_user_gives_beats_the_catalog() -> None:
    made = cluster(
        group(
            nodes=1, link_kind="NVLink", link_bandwidth_bytes_per_s=5e10, link_latency_s=1e-6,
            link_source="measured", memory_bytes=22e9, power_w=300, training_efficiency=0.5,
        )
    )  # fmt: skip
    chip, link = made.chips[0], made.link("rtx-4090.0", "rtx-4090.1")
    assert (chip.memory_bytes, chip.power_w, chip.efficiency) == (22_000_000_000, 300, None)
    assert (link.kind, link.bandwidth_bytes_per_s, link.latency_s) == ("NVLink", 5e10, 1e-6)
    assert link.source == "measured"
    measured = cluster(group(flops_per_s={"bf16": 1.4e14})).chips[0].efficiency
    assert measured is not None
    assert (measured.matmul_share, measured.measured) == (1.0, True)


def test_a_group_of_chips_that_no_catalog_knows() -> None:
    fields = {"flops_per_s": {"bf16": 1e9}, "precision": "bf16", "memory_bytes": 1e9,
              "memory_bandwidth_bytes_per_s": 1e9, "emulated": True, "source": "emulated",
              "link_bandwidth_bytes_per_s": 1e8}  # fmt: skip
    made = cluster({"kind": "my-chip", "count": 2, **fields})
    assert [chip.name for chip in made.chips] == ["my-chip.0", "my-chip.1"]
    link = made.link("my-chip.0", "my-chip.1")
    assert (link.emulated, link.source) == (True, "emulated")


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ([group(count=9)], "9 chips do not share out evenly over 2 nodes.\nIf the nodes are "
                           "unlike, say how: per_node = [5, 4]."),
        ([group(count=1)], "2 nodes are more than the 1 chips"),
        ([group(per_node=3)], "2 nodes of 3 chips are 6 chips, but count is 8"),
        ([group(per_node=[3, 4])], "2 nodes of 3, 4 chips are 7 chips, but count is 8"),
        ([group(per_node=[3, 5], nodes=3)], "per_node lists 2 nodes, but nodes is 3"),
        ([{"kind": "rtx-4090"}], "'count' is missing"),
        ([group(cuont=3)], "unknown key 'cuont'.\nDid you mean 'count'?"),
        ([group(count=10**9)], "at most 100000 chips"),
        ([group(count=0)], "count: must be above zero"),
        ([group(network_gbit_per_s=0)], "network_gbit_per_s: must be above zero"),
        ([group(network_latency_s=-1)], "network_latency_s: must not be negative"),
        ([group(network_gbit_per_s=None)], "says nothing about the network of its nodes"),
        ([group(), group()], "node 'rtx-4090-0' is in two groups"),
        ([group(name="a"), group(name="b", site="far")],
         "no link between the sites 'local' and 'far'"),
        ([group(site="rtx-4090-0")], "a site cannot be named 'rtx-4090-0'"),
        ([group(site="*")], "a site cannot be named '*'"),
        ([group(price_source="x")], "price_source: of a price that is not given"),
        ([group(kind="a100")], "group 1: 'a100' fits 4 ids: nvidia-a100-pcie-40g, "),
        ([group(kind="a100-80gb")], "fits 2 ids: nvidia-a100-pcie-80g, nvidia-a100-sxm-80g."),
        ([group(kind="rtx-4900")], "Did you mean 'nvidia-rtx-4090'?"),
        ([group(kind="enflame-s60")], "plan needs: rate of matrix products, memory bandwidth."),
        ([group(kind="mtt-s5000")], "plan needs: rate in bf16, fp16 or fp32."),
        ([group(kind="enflame-t20")],
         "the link between chips of 'enflame-t20' inside a node is not known"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tables: list[dict[str, Any]], message: str) -> None:
    tables = [{key: value for key, value in each.items() if value is not None} for each in tables]
    text = refused(*tables)
    assert message in text
    assert len(text.splitlines()) <= 2


def test_a_chip_or_node_in_two_places_is_refused() -> None:
    chip = {"kind": "rtx-4090", "name": "a"}
    both = [{**chip, "node": "n"}, {**chip, "node": "m"}]
    assert "chip 'a' is in two nodes, 'n' and 'm'" in refused(chip=both)
    both = [{**chip, "site": "x"}, {**chip, "name": "b", "site": "y"}]
    assert "node 'local' is in two sites, 'x' and 'y'" in refused(chip=both)
    stray = [{**chip, "node": "rtx-4090-1"}]
    assert "is in node 'rtx-4090-1', which is a group's" in refused(group(), chip=stray)


def test_a_link_to_an_unknown_site_is_refused() -> None:
    links = [wan("here", "their")]
    groups = [group(site="here"), group(name="b", site="there")]
    assert "link names unknown 'their'.\nDid you mean 'there'?" in refused(*groups, link=links)


@pytest.mark.parametrize("value", [0, -1, True, "10", float("nan"), float("inf"), 1e300])
def test_a_line_rate_out_of_range_is_refused(value: Any) -> None:
    links = [{"between": ["*", "*"], "gbit_per_s": value}]
    assert "gbit_per_s: must be above zero" in refused(group(), link=links)
    both = [{"between": ["*", "*"], "gbit_per_s": 1, "bandwidth_bytes_per_s": 1}]
    assert "both gbit_per_s and bandwidth_bytes_per_s" in refused(group(), link=both)


@pytest.mark.parametrize("kind", sorted(catalog()))
def test_every_kind_of_the_catalog_is_a_group_or_says_what_is_missing(kind: str) -> None:
    try:
        made = cluster(group(kind=kind))
    except (UnknownChipError, ClusterError):
        assert re.search(r"not know.*\n.*motley probe", refused(group(kind=kind)))
        return
    row = look_up(kind)
    assert made.chips[0].memory_bytes == row.memory_bytes
    assert made.chips[0].usd_per_hour == row.cloud_usd_per_hour
    expected = quoted_link(row, 4)
    assert expected is not None
    inside = made.link(made.chips[0].name, made.chips[1].name)
    assert inside.bandwidth_bytes_per_s == expected.bandwidth_bytes_per_s
    assert inside.origin


def test_a_bridge_of_pairs_joins_no_more_than_two() -> None:
    row = look_up("nvidia-a30")
    pair, four = quoted_link(row, 2), quoted_link(row, 4)
    assert pair is not None
    assert four is not None
    assert (pair.kind, pair.bandwidth_bytes_per_s) == ("NVLink 3 bridge (pairs)", 100e9)
    assert (four.kind, four.bandwidth_bytes_per_s) == ("PCIe 4.0 x16", 31e9)


@pytest.mark.parametrize(("per_node", "gigabytes"), [(2, 64), (4, 192), (8, 448), (16, 448)])
def test_a_full_mesh_has_a_link_to_each_neighbour(per_node: int, gigabytes: float) -> None:
    link = quoted_link(look_up("mi300x-192g"), per_node)
    assert link is not None
    assert link.bandwidth_bytes_per_s == gigabytes * 1e9


def test_fp8_can_be_planned_and_is_not_trained() -> None:
    made = cluster(group(precision="fp8"))
    assert made.chips[0].precision == "fp8"
    with pytest.raises(ClusterError, match="fp8 can be planned, but not run"):
        check_devices(made)
    assert "'fp8' has no rate" in refused(group(kind="a100-sxm-80g", precision="fp8"))


def test_ten_thousand_chips_are_read_and_asked_about() -> None:
    """A wrong order of growth would run into the time limit of the test."""
    groups = [
        group(name=f"g{index}", kind=KINDS[index % 4], count=2000, nodes=250, site=f"s{index % 2}")
        for index in range(5)
    ]
    made = cluster(*groups, links=(wan("s0", "s1"),))
    names = [chip.name for chip in made.chips]
    assert len(names) == 10_000
    assert made.spread(names).network == made.link(names[0], names[2000])
    for first, second in itertools.pairwise(names):
        made.link(first, second)
    assert parse_cluster(made.to_dict()) == made
