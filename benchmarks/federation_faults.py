"""What faults do to a federation: many small trials of each kind, with real processes.

    python benchmarks/federation_faults.py --json
    python benchmarks/federation_faults.py --only kill --trials 10 --seed 7

A trial is a federation of four parties in a folder store. Something goes wrong at a random moment;
the checks then read the log alone, and the parties' own events. Seeds say which trial it was. Each
kind is kept as it is done; the command goes on with those that are not there. With `--only` a kind
runs anew, and is kept if it has as many trials.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from common import origin, say
from federation_checks import check, sum_up
from federation_parties import FederationSpec, PartySpec, apart, one_thread
from federation_scenarios import (
    FLOPS_PER_S,
    LIMIT_S,
    OUTAGE_S,
    PARTIES,
    ROUNDS,
    SCENARIOS,
    TERMS,
    Trial,
)
from motley.federation.keys.identity import new_identity
from motley.federation.simulate import found_simulated, simulated_text
from motley.federation.storage.store import open_store

RESULTS = Path(__file__).parent / "results" / "federation_faults.json"


def run_trial(kind: str, seed: int, base: Path) -> dict[str, Any]:
    """One trial, from founding to the checks. In a process of its own."""
    trial = make_trial(base, seed)
    limit_s = LIMIT_S + (OUTAGE_S if kind == "outage" else 0.0)
    deadline = time.monotonic() + limit_s
    try:
        SCENARIOS[kind](trial, deadline)
        statuses = {}
        for index in list(trial.processes):
            statuses[index] = trial.wait_dead(index, deadline)
    finally:
        trial.end()
    return check(trial, statuses) | {"kind": kind, "seed": seed}


def make_trial(base: Path, seed: int) -> Trial:
    """A fresh federation with as many rounds as a trial has."""
    recipe, data = simulated_text(lambda text: None)
    steps = ROUNDS * TERMS.round.local_steps
    recipe = dataclasses.replace(recipe, schedule=dataclasses.replace(recipe.schedule, steps=steps))
    identities = [new_identity(f"party-{index}") for index in range(PARTIES)]
    store = base / "store"
    digest = apart(
        lambda: found_simulated(
            open_store(str(store), create=True), recipe, data, TERMS, identities
        ),
        base / "founded.json",
    )
    spec = FederationSpec(store=store, federation=digest, recipe=recipe, data=data)
    parties = [
        PartySpec(
            identity=identity, folder=base / identity.party, seed=index, flops_per_s=FLOPS_PER_S
        )
        for index, identity in enumerate(identities)
    ]
    for party in parties:
        party.folder.mkdir()
    return Trial(spec, parties, random.Random(seed))


def isolated(kind: str, seed: int) -> dict[str, Any]:
    """`run_trial` in a process of its own, so that trials cannot disturb each other."""
    with tempfile.TemporaryDirectory(prefix="motley-faults-") as base:
        try:
            outcome: dict[str, Any] = apart(
                lambda: run_trial(kind, seed, Path(base)), Path(base) / "result.json"
            )
            return outcome
        except RuntimeError as error:
            return {"kind": kind, "seed": seed, "error": str(error)}


def run_kind(kind: str, trials: int, seed: int, at_once: int) -> dict[str, Any]:
    """All trials of one kind, some at a time."""
    say(f"{kind}: {trials} trials")
    with ProcessPoolExecutor(at_once) as pool:
        results = list(pool.map(isolated, [kind] * trials, range(seed, seed + trials)))
    figures = sum_up(results)
    say(json.dumps(figures))
    return figures


def kept() -> dict[str, Any]:
    """What earlier calls have measured, by kind."""
    if not RESULTS.exists():
        return {}
    kinds: dict[str, Any] = json.loads(RESULTS.read_text())["kinds"]
    return kinds


def keep(kind: str, figures: dict[str, Any]) -> None:
    """Into the record, unless that has more trials of the kind."""
    kinds = kept()
    if figures["trials"] >= kinds.get(kind, {}).get("trials", 0):
        kinds[kind] = figures
        RESULTS.write_text(json.dumps({**summary(kinds), "kinds": kinds}, indent=1) + "\n")


def summary(kinds: dict[str, Any]) -> dict[str, Any]:
    """Over all kinds that have been measured."""
    return {
        "rounds_lost": sum(each["rounds_lost"] for each in kinds.values()),
        "committed_twice": sum(each["committed_twice"] for each in kinds.values()),
        "digests_equal": all(each["digests_equal"] for each in kinds.values()),
        "longest_wait_s": max(each["longest_wait_s"] for each in kinds.values()),
        "not_measured": [kind for kind in SCENARIOS if kind not in kinds],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the result as JSON at the end")
    parser.add_argument("--only", choices=list(SCENARIOS), help="one kind of fault")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=2)
    arguments = parser.parse_args()
    one_thread()
    simulated_text(lambda text: None)  # prepared once, before the processes part
    missing = [
        kind for kind in SCENARIOS if kept().get(kind, {}).get("trials", 0) < arguments.trials
    ]
    measured = {}
    for kind in [arguments.only] if arguments.only else missing:
        # An outage's trials mostly wait.
        at_once = arguments.at_once * (4 if kind == "outage" else 1)
        figures = run_kind(kind, arguments.trials, arguments.seed, at_once)
        measured[kind] = {**figures, "origin": origin()}
        keep(kind, measured[kind])
    shown = {**kept(), **measured}
    result = {**summary(shown), "kinds": shown}
    print(json.dumps(result, indent=None if arguments.json else 2))


if __name__ == "__main__":
    main()
