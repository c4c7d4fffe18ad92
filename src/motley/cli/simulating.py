"""`motley federation simulate`: many parties on this machine, with a tiny model."""

from __future__ import annotations

import tempfile
from pathlib import Path

from motley.cli.output import print_json, say


def run(parties: int, rounds: int, local_steps: int, store: str | None, *, as_json: bool) -> None:
    """Runs the rounds and says what they took; the log stays if a store is named."""
    from motley.federation.simulate import simulate
    from motley.federation.storage.store import open_store

    if store is not None:
        result = simulate(open_store(store, create=True), parties, rounds, local_steps, say)
    else:
        with tempfile.TemporaryDirectory(prefix="motley-simulate-") as folder:
            place = open_store(str(Path(folder) / "store"), create=True)
            result = simulate(place, parties, rounds, local_steps, say)
    if as_json:
        print_json(result)
    else:
        print(
            f"{parties} parties, {rounds} rounds: per party and round "
            f"{result['seal_s_per_party'] * 1e3:.0f} ms of this machine's processor beside the "
            f"training and {result['log_bytes_per_party']:.0f} bytes of log; all digests equal."
        )
