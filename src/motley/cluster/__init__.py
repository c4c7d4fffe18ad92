"""The chips, links and prices that one run may use: from `cluster.toml` to paths between chips."""

from motley.cluster.check import check_devices
from motley.cluster.cluster import Cluster, Node
from motley.cluster.group import Group
from motley.cluster.paths import LOOPBACK, Spread
from motley.cluster.prices import Price
from motley.cluster.read import load_cluster, parse_cluster

__all__ = [
    "LOOPBACK",
    "Cluster",
    "Group",
    "Node",
    "Price",
    "Spread",
    "check_devices",
    "load_cluster",
    "parse_cluster",
]
