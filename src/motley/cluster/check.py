"""What a cluster says twice, or in two ways that cannot both be true."""

from __future__ import annotations

from collections.abc import Sequence

from motley.chips.chip import DEFAULT_SITE
from motley.cluster.cluster import Cluster
from motley.cluster.expand import Expanded
from motley.cluster.paths import pair_of
from motley.errors import ClusterError, nearest


def check_topology(cluster: Cluster, groups: Sequence[Expanded], where: str) -> None:
    """`ClusterError` for the first contradiction, unknown name or missing path."""
    _check_groups(cluster, groups, where)
    _check_chips(cluster, where)
    _check_nodes(cluster, where)
    _check_links(cluster, where)
    _check_networks(cluster, groups, where)
    _check_sites(cluster, where)


def _check_groups(cluster: Cluster, groups: Sequence[Expanded], where: str) -> None:
    owners: dict[str, str] = {}
    grouped = {chip.name for each in groups for chip in each.chips}
    for each in groups:
        for node in dict.fromkeys(chip.node for chip in each.chips):
            if node in owners:
                raise ClusterError(
                    f"{where}: node '{node}' is in two groups, of {owners[node]} and "
                    f"{each.chips[0].kind}.",
                    remedy="Give each group its own name; a node of unlike chips needs [[chip]] "
                    "tables.",
                )
            owners[node] = each.chips[0].kind
    for chip in cluster.chips:
        if chip.node in owners and chip.name not in grouped:
            raise ClusterError(
                f"{where}: chip '{chip.name}' is in node '{chip.node}', which is a group's.",
                remedy="Rename one of the two; a node of unlike chips needs [[chip]] tables.",
            )


def _check_chips(cluster: Cluster, where: str) -> None:
    nodes: dict[str, str] = {}
    for chip in cluster.chips:
        if chip.name in ("", "*"):
            raise ClusterError(f"{where}: a chip cannot be named '{chip.name}'.", remedy="Name it.")
        if nodes.setdefault(chip.name, chip.node) != chip.node:
            raise ClusterError(
                f"{where}: chip '{chip.name}' is in two nodes, '{nodes[chip.name]}' and "
                f"'{chip.node}'.",
                remedy="A chip is in one node; give each chip its own name.",
            )
    if len(nodes) == len(cluster.chips):
        return
    names = [chip.name for chip in cluster.chips]
    name = next(name for name in nodes if names.count(name) > 1)
    raise ClusterError(
        f"{where}: {names.count(name)} chips are named '{name}'.",
        remedy="Give each its own name.",
    )


def _check_nodes(cluster: Cluster, where: str) -> None:
    sites: dict[str, str] = {}
    for chip in cluster.chips:
        if sites.setdefault(chip.node, chip.site) != chip.site:
            raise ClusterError(
                f"{where}: node '{chip.node}' is in two sites, '{sites[chip.node]}' and "
                f"'{chip.site}'.",
                remedy="A node is in one place; give each machine its own name.",
            )
    for name in sites.values():
        if name in ("", "*") or (name in sites and name != DEFAULT_SITE):
            reason = "a node has that name" if name in sites else "links could not name it"
            raise ClusterError(
                f"{where}: a site cannot be named '{name}': {reason}.", remedy="Rename the site."
            )


def _check_links(cluster: Cluster, where: str) -> None:
    known = {name for chip in cluster.chips for name in (chip.name, chip.node, chip.site)} | {"*"}
    seen: set[tuple[str, str]] = set()
    for link in cluster.links:
        for name in link.between:
            if name not in known:
                hint = nearest(name, known) or "Name a chip, a node, a site or '*'."
                raise ClusterError(f"{where}: link names unknown '{name}'.", remedy=hint)
        pair = pair_of(*link.between)
        if pair in seen:
            raise ClusterError(
                f"{where}: two links between '{pair[0]}' and '{pair[1]}'.", remedy="Keep one."
            )
        seen.add(pair)


def _check_networks(cluster: Cluster, groups: Sequence[Expanded], where: str) -> None:
    """Every node of a group needs a network if its site has another node."""
    pairs = {pair_of(*link.between) for link in cluster.links}
    if ("*", "*") in pairs:
        return
    for each in groups:
        site, nodes = each.group.site, {chip.node for chip in each.chips}
        alone = len(cluster.sites[site]) == 1
        if alone or (site, site) in pairs or all(pair_of("*", node) in pairs for node in nodes):
            continue
        raise ClusterError(
            f"{where}: group '{each.group.name}' says nothing about the network of its nodes, and "
            f"site '{site}' has {len(cluster.sites[site])} nodes.",
            remedy="Give network_gbit_per_s, of one whole node.",
        )


def _check_sites(cluster: Cluster, where: str) -> None:
    pairs = {pair_of(*link.between) for link in cluster.links}
    sites = list(cluster.sites)
    for position, first in enumerate(sites):
        for second in sites[position + 1 :]:
            patterns = ((first, second), (first, "*"), ("*", second), ("*", "*"))
            if any(pair_of(*pattern) in pairs for pattern in patterns):
                continue
            if all(
                pair_of(here, there) in pairs
                for here in cluster.sites[first]
                for there in cluster.sites[second]
            ):
                continue
            raise ClusterError(
                f"{where}: no link between the sites '{first}' and '{second}'.",
                remedy=f'Add a [[link]] with between = ["{first}", "{second}"], its gbit_per_s '
                "and latency_s.",
            )


def check_devices(cluster: Cluster) -> None:
    """Before a training: one process drives one chip, so no two real chips can be one device.

    Formats that can only be planned are refused too.
    """
    seen: dict[tuple[str, str], str] = {}
    for chip in cluster.chips:
        if chip.precision == "fp8":
            raise ClusterError(
                f"chip '{chip.name}': training in fp8 can be planned, but not run: no layer of "
                "motley computes in fp8, on any chip.",
                remedy='Set precision = "bf16" to train.',
            )
        place = (chip.node, chip.device)
        if not chip.emulated and place in seen:
            raise ClusterError(
                f"'{seen[place]}' and '{chip.name}' are both {chip.device} of node '{chip.node}'.",
                remedy="Give each its own device (cuda:0, cuda:1, ...) or node.",
            )
        if not chip.emulated:
            seen[place] = chip.name
