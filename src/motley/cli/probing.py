"""`motley probe`: measure this machine and write a cluster file that a person can edit."""

from __future__ import annotations

import tomllib
from pathlib import Path

from motley.cli.output import print_json, say
from motley.cluster import Cluster, parse_cluster
from motley.errors import StorageError


def run(out: Path, *, as_json: bool) -> None:
    text, cluster = measure()
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as cause:
        raise StorageError(f"{out} cannot be written: {cause}.", remedy="Name another.") from None
    if as_json:
        print_json(cluster.to_dict())
    else:
        say(f"Written to {out}. Edit it as you like, then: motley plan RECIPE --cluster {out}")


def measure() -> tuple[str, Cluster]:
    """This machine's cluster file and the cluster that it describes."""
    from motley.chips.cluster_text import cluster_toml
    from motley.chips.probe import probe

    result = probe(say)
    text = cluster_toml("this-machine", result.chips, result.links, result.comments)
    return text, parse_cluster(tomllib.loads(text), "probe")
