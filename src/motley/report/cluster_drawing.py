"""The cluster drawn: sites, their nodes and chips, the paths between them, figures and prices."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from motley.chips.chip import Chip
from motley.cluster import Cluster
from motley.report.cluster_shape import (
    MOST_SITES,
    AlikeNodes,
    Path,
    Site,
    SitePath,
    site_paths,
    sites_of,
)
from motley.report.kinds import Palette, short
from motley.report.markup import Child, Markup, join, tag
from motley.report.tables import badge, table
from motley.report.words import UNKNOWN, plural, shown
from motley.units import duration, si, size

MOST_SQUARES = 16
"""Chips of a node that are drawn one by one."""
MOST_NODES = 24
"""Boxes of nodes in one site."""
MOST_NAMED = 4
"""Pairs of nodes that a line about their paths names."""


def cluster_section(cluster: Cluster, idle: frozenset[str], palette: Palette) -> Markup:
    """The drawing and the tables of kinds and prices; `idle` chips are drawn hollow."""
    sites = sites_of(cluster)
    drawn = [_site(site, idle, palette) for site in sites[:MOST_SITES]]
    left = len(sites) - len(drawn)
    more = tag("p", f"{plural(left, 'further site')} not drawn.", class_="note") if left else None
    return join(
        [
            tag("div", *drawn, class_="sites"),
            more,
            _between_sites(site_paths(cluster, sites)),
            _key(idle),
            tag("h3", "Chips by kind"),
            kinds_table(cluster, palette),
            tag("h3", "Prices"),
            prices_table(cluster),
        ]
    )


def _site(site: Site, idle: frozenset[str], palette: Palette) -> Markup:
    boxes = [_nodes(each, idle, palette) for each in site.alike[:MOST_NODES]]
    left = len(site.alike) - len(boxes)
    said = f"{plural(site.num_nodes, 'node')}, {plural(site.num_chips, 'chip')}"
    more = f"{plural(left, 'further kind')} of nodes not drawn." if left else None
    return tag(
        "div",
        tag("h3", site.name, " ", tag("span", said, class_="muted")),
        tag("div", *boxes, class_="nodes"),
        tag("p", more, class_="note") if more else None,
        _network(site),
        class_="site",
    )


def _nodes(alike: AlikeNodes, idle: frozenset[str], palette: Palette) -> Markup:
    """One box for alike nodes: the chips of one of them, their paths, and how many there are."""
    count = len(alike.nodes)
    rows = [_chips(alike, kind, idle, palette) for kind in alike.chips]
    inside = [_wire(path, "inside") for path in alike.inside]
    between = _wire(alike.between, "between these nodes") if alike.between else None
    times = tag("b", f"{count} x", class_="times") if count > 1 else None
    return tag(
        "div",
        tag("p", times, tag("span", alike.name, class_="name"), class_="title"),
        *rows,
        *inside,
        between,
        class_="node stack" if count > 1 else "node",
    )


def _chips(alike: AlikeNodes, kind: str, idle: frozenset[str], palette: Palette) -> Markup:
    """The chips of one kind in one node; hollow ones stand for the share that is idle."""
    names = [name for node in alike.nodes for name in node.chips[kind]]
    per_node = alike.chips[kind]
    resting = sum(name in idle for name in names)
    drawn = min(per_node, MOST_SQUARES)
    hollow = math.ceil(drawn * resting / len(names))
    squares = [
        tag("i", class_=f"chip {palette.of(kind)}{' idle' if index >= drawn - hollow else ''}")
        for index in range(drawn)
    ]
    words = [f"{per_node} x {short(kind)}" if per_node > 1 else short(kind)]
    if len(alike.nodes) > 1:
        words.append(f"{len(names)} in all")
    if resting:
        words.append("idle" if resting == len(names) else f"{resting} idle")
    return tag(
        "div",
        tag("div", *squares, "..." if per_node > drawn else None, class_="chips-drawn"),
        tag("span", ", ".join(words)),
        class_="chips-row",
    )


def _wire(path: Path, where: str) -> Markup:
    """A line as thick as the path is wide, by its logarithm."""
    thick = min(9.0, max(1.0, 1 + 1.6 * math.log10(path.bandwidth_bytes_per_s / 1e8)))
    line = tag("i", class_="wire", style=f"height:{thick:.1f}px", aria_hidden="true")
    return tag("div", line, tag("span", where, ": ", *path_words(path)), class_="path")


def path_words(path: Path) -> list[Child]:
    """ "NVLink 4, 450 GB/s, 3 us" and where that comes from."""
    kind = f"{path.kind}, " if path.kind else ""
    text = f"{kind}{rate(path.bandwidth_bytes_per_s)}, {duration(path.latency_s)}"
    if path.is_assumed:
        return ["not given; assumed ", text]
    return [text, " ", badge(path.source)]


def rate(bytes_per_s: float) -> str:
    """Bytes a second; where networks are slower than buses, bits too."""
    text = si(bytes_per_s, "B/s")
    return text if bytes_per_s > 1e11 else f"{text} ({si(8 * bytes_per_s, 'bit/s')})"


def _network(site: Site) -> Markup | None:
    """What joins unlike nodes of the site."""
    if not site.across:
        return None
    lines = []
    for path, pairs in site.across:
        named = "; ".join(f"{first} with {second}" for first, second in pairs[:MOST_NAMED])
        more = f" and {len(pairs) - MOST_NAMED} more" if len(pairs) > MOST_NAMED else ""
        lines.append(_wire(path, f"{named}{more}"))
    return tag("div", tag("h4", "Network between these nodes"), *lines, class_="network")


def _between_sites(paths: Sequence[SitePath]) -> Markup | None:
    if not paths:
        return None
    lines = []
    for each in paths:
        price = shown(each.usd_per_gb, lambda usd: f"{usd:g} USD per GB sent", "price unknown")
        line = _wire(each.path, f"{each.first} - {each.second}")
        lines.append(tag("div", line, tag("span", price, class_="muted"), class_="site-path"))
    return tag("div", tag("h3", "Between sites"), *lines, class_="site-paths")


def _key(idle: frozenset[str]) -> Markup:
    words = "A square is a chip of one node; the thicker a line, the wider the path."
    if idle:
        words += " Hollow chips are idle in this plan."
    return tag("p", words, class_="note")


def kinds_table(cluster: Cluster, palette: Palette) -> Markup:
    """The figures that plans are made from, with their sources; chips that differ have rows."""
    groups: dict[tuple[object, ...], list[Chip]] = {}
    for chip in cluster.chips:
        figures = (
            chip.kind, chip.precision, chip.training_flops_per_s, chip.memory_bytes,
            chip.memory_bandwidth_bytes_per_s, chip.power_w, chip.source,
        )  # fmt: skip
        groups.setdefault(figures, []).append(chip)
    rows = [_kind_row(chips, palette) for chips in groups.values()]
    head = ("kind", "chips", "peak", "reached in layers", "memory", "memory bandwidth", "power")
    return table(head, rows, "Chips by kind")


def _kind_row(chips: Sequence[Chip], palette: Palette) -> list[Child]:
    chip = chips[0]
    peak = si(chip.flops_per_s[chip.precision], "FLOP/s")
    reach = "modelled by kernel" if chip.efficiency else f"{chip.training_efficiency:.0%}"
    return [
        palette.named(chip.kind),
        str(len(chips)),
        join([f"{peak} {chip.precision} ", badge(chip.source)]),
        reach,
        size(chip.memory_bytes),
        si(chip.memory_bandwidth_bytes_per_s, "B/s"),
        shown(chip.power_w, lambda watts: f"{watts:g} W"),
    ]


def prices_table(cluster: Cluster) -> Markup:
    """Every price with where and when it was found; unknown ones are said."""
    rows: list[list[Child]] = []
    for price in cluster.prices:
        item = f"{price.num_chips} x {short(price.item)}" if price.num_chips else price.item
        known = f"{price.usd:g} USD per {price.unit}" if price.usd else f"nothing per {price.unit}"
        unknown = tag("span", f"{UNKNOWN} per {price.unit}", class_="problem")
        rows.append([item, unknown if price.usd is None else known, linked(price.source or "-")])
    return table(("item", "price", "where and when it was found"), rows, "Prices")


def linked(text: str) -> Markup:
    """The text with its web addresses as links; nothing else becomes one."""
    parts = re.split(r"(https?://[^\s()<>\"']+)", text)
    return join(
        tag("a", part, href=part, rel="noreferrer") if index % 2 else part
        for index, part in enumerate(parts)
    )
