"""`motley probe`: measure this machine and write a cluster file that a person can edit."""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path

from motley.cli.output import keep_old, print_json, require_writable, say, write_text
from motley.cluster import Cluster, parse_cluster


def run(out: Path, *, as_json: bool) -> None:
    require_writable(out)
    text, cluster = measure()
    keep_old(out)
    write_text(out, text)
    if as_json:
        print_json(cluster.to_dict())
    else:
        then = shlex.join(["motley", "plan", "RECIPE", "--cluster", str(out)])
        say(f"Written to {out}. Edit it as you like, then: {then}")


def measure() -> tuple[str, Cluster]:
    """This machine's cluster file and the cluster that it describes."""
    from motley.chips.cluster_text import cluster_toml
    from motley.chips.probe import probe

    result = probe(say)
    text = cluster_toml("this-machine", result.chips, result.links, result.comments)
    return text, parse_cluster(tomllib.loads(text), "probe")
