"""What a federation costs and withstands: every figure of it, in one JSON object.

    python benchmarks/federation.py --json
    python benchmarks/federation.py --only links

Bytes against loss, the attackers and the faults are long runs of their own
(`federation_frontier.py`, `federation_attackers.py`, `federation_faults.py`); their kept results
are read. A figure whose run is not there is null.
Each part's result is kept in `results/federation.json`, so the parts can be run one by one.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import origin, say
from federation_links import mixed_efficiency, round_overhead, utilisation
from federation_parties import apart, one_thread
from motley.federation.simulate import simulate, simulated_text
from motley.federation.storage.store import open_store

RESULTS = Path(__file__).parent / "results"
KEPT = RESULTS / "federation.json"
SCALES = (16, 64, 256)


def links() -> dict[str, Any]:
    """Utilisation on slow links."""
    return {"100mbit": utilisation(100e6), "10mbit": utilisation(10e6)}


def scale() -> dict[str, Any]:
    """Federations of more and more parties on this machine."""
    return {str(count): _simulated(count) for count in SCALES}


def _simulated(count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="motley-scale-") as name:
        base = Path(name)
        say(f"  {count} parties")
        found: dict[str, Any] = apart(
            lambda: simulate(
                open_store(str(base / "store"), create=True), count, 2, 2, lambda text: None
            ),
            base / "result.json",
        )
        return found


def apart_mixed() -> dict[str, Any]:
    """In a process of its own, since it reads the store and the others fork."""
    with tempfile.TemporaryDirectory(prefix="motley-mixed-") as name:
        found: dict[str, Any] = apart(mixed_efficiency, Path(name) / "result.json")
        return found


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "links": links,
    "overhead": round_overhead,
    "mixed": apart_mixed,
    "scale": scale,
}


def kept(path: Path) -> dict[str, Any]:
    """A kept result; empty if there is none."""
    if not path.is_file():
        return {}
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def figures(parts: dict[str, Any]) -> dict[str, Any]:
    """The figures that the project gives; null where a part has not been run."""
    links = parts.get("links", {})
    faults = kept(RESULTS / "federation_faults.json")
    frontier = kept(RESULTS / "federation_frontier.json")
    attackers = kept(RESULTS / "federation_attackers.json")
    return {
        "bytes_ratio": frontier.get("bytes_ratio"),
        "loss_penalty": frontier.get("loss_penalty"),
        "utilisation_100mbit": links.get("100mbit", {}).get("utilisation"),
        "utilisation_10mbit": links.get("10mbit", {}).get("utilisation"),
        "round_overhead_s": parts.get("overhead", {}).get("paused_s"),
        "mixed_efficiency": parts.get("mixed", {}).get("mixed_efficiency"),
        "rounds_lost": faults.get("rounds_lost"),
        "digests_equal": faults.get("digests_equal"),
        "attack_penalty_max": attackers.get("attack_penalty_max"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the result on one line")
    parser.add_argument("--only", nargs="*", choices=list(PARTS), help="parts to run now")
    arguments = parser.parse_args()
    one_thread()
    simulated_text(say)
    parts: dict[str, Any] = kept(KEPT).get("parts", {})
    for name in PARTS if arguments.only is None else arguments.only:
        say(name)
        parts[name] = {**PARTS[name](), "origin": origin()}
        KEPT.write_text(json.dumps({"parts": parts}, indent=1) + "\n")
    print(json.dumps({**figures(parts), "parts": parts}, indent=None if arguments.json else 2))


if __name__ == "__main__":
    main()
