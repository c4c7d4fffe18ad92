"""What faults do to a federation: many small trials of each kind, with real processes.

    python benchmarks/federation_faults.py --json
    python benchmarks/federation_faults.py --only kill --trials 10 --seed 7

A trial is a federation of four parties in a folder store. Something goes wrong at a random moment;
the checks then read the log alone, and the parties' own events. Seeds say which trial it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import origin, say
from federation_parties import (
    Faults,
    FederationSpec,
    PartySpec,
    apart,
    events_of,
    one_thread,
    start_party,
)
from motley.federation.codec import CodecConfig
from motley.federation.identity import new_identity
from motley.federation.simulate import found_simulated, simulated_text
from motley.federation.store import open_store
from motley.federation.terms import OuterConfig, RoundTerms, Terms
from motley.federation.view import View

PARTIES = 4
ROUNDS = 6
GRACE_S = 5.0
TERMS = Terms(
    name="faults",
    round=RoundTerms(
        local_steps=4, delay_steps=1, quorum=2, reviews=2, grace_s=GRACE_S, snapshot_every=2
    ),
    codec=CodecConfig(kind="topk"),
    outer=OuterConfig(kind="average", learning_rate=1.0),
)
FLOPS_PER_S = 3e8
"""A step of the tiny model takes about 100 ms: a round is long enough to die in, and a hundred
processes do not need more than this machine has."""
LIMIT_S = 60.0
"""A trial without an outage that takes longer has lost rounds."""
OUTAGE_S = 60.0
EARLY_CALLS = 120
"""About as many calls to the store as a party makes in a trial."""


@dataclass
class Trial:
    """A running federation with its processes."""

    spec: FederationSpec
    parties: list[PartySpec]
    random: random.Random
    processes: dict[int, int] = field(default_factory=dict)
    """Index of a party to its process."""
    faulty: set[int] = field(default_factory=set)
    """Parties that need not reach the end in their first process."""
    restarted_at: dict[int, int] = field(default_factory=dict)
    """Index of a party to the round that was open when it came back."""

    def start(self, index: int, faults: Faults | None = None) -> None:
        self.processes[index] = start_party(self.spec, self.parties[index], faults)

    def sealed(self) -> int:
        """Rounds that have a seal, as far as the folder shows."""
        folder = self.spec.store / "seals"
        return len(list(folder.glob("*.json"))) if folder.is_dir() else 0

    def wait_for_round(self, round_: int, deadline: float) -> bool:
        while self.sealed() < round_ and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.sealed() >= round_

    def wait_until_training(self, deadline: float) -> None:
        """Until every party has caught up and begun."""
        waiting = list(self.parties)
        while waiting and time.monotonic() < deadline:
            time.sleep(0.02)
            waiting = [
                party
                for party in waiting
                if all(event["event"] != "training" for event in events_of(party))
            ]

    def wait_dead(self, index: int, deadline: float) -> int | None:
        """The exit status when the party's process has ended; None if it has not in time."""
        while time.monotonic() < deadline:
            process, status = os.waitpid(self.processes[index], os.WNOHANG)
            if process:
                del self.processes[index]
                return status
            time.sleep(0.01)
        return None

    def restart(self, index: int) -> None:
        self.restarted_at[index] = self.sealed()
        self.start(index)

    def end(self) -> None:
        for process in self.processes.values():
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        self.processes.clear()


Scenario = Callable[[Trial, float], None]
"""Starts the parties and does what goes wrong; it has until the deadline."""


def kill(trial: Trial, deadline: float) -> None:
    """kill -9 of one party anywhere: at a call to the store, at the seal, or at any time."""
    rng, victim = trial.random, trial.random.randrange(PARTIES)
    trial.faulty.add(victim)
    way = rng.choice(("call", "seal", "time"))
    faults = {
        "call": Faults(die_at_call=rng.randint(1, EARLY_CALLS), die_before=rng.random() < 0.5),
        "seal": Faults(die_at_seal=True, die_before=rng.random() < 0.5),
        "time": Faults(),
    }[way]
    for index in range(PARTIES):
        trial.start(index, faults if index == victim else None)
    if way == "time":
        time.sleep(rng.uniform(0.0, 4.0))
        os.kill(trial.processes[victim], signal.SIGKILL)
    comes_back = rng.random() < 0.7
    was_killed = trial.wait_dead(victim, deadline) not in (None, 0)
    if comes_back and was_killed and trial.sealed() < ROUNDS - 1:
        time.sleep(rng.uniform(0.0, 0.5))
        trial.restart(victim)


def outage(trial: Trial, deadline: float) -> None:
    """The store cannot be reached for a minute, by one party, two, or all."""
    rng = trial.random
    hit = rng.sample(range(PARTIES), rng.choice((1, 2, PARTIES)))
    flag = trial.spec.store.with_name("outage")
    for index in range(PARTIES):
        trial.start(index, Faults(outage=flag) if index in hit else None)
    trial.wait_until_training(deadline)
    time.sleep(rng.uniform(0.0, 2.0))
    flag.touch()
    time.sleep(OUTAGE_S)
    flag.unlink()


def slow(trial: Trial, deadline: float) -> None:
    """One party computes ten times slower than the others."""
    victim = trial.random.randrange(PARTIES)
    trial.parties[victim] = dataclasses.replace(trial.parties[victim], flops_per_s=FLOPS_PER_S / 10)
    for index in range(PARTIES):
        trial.start(index)


def damage(trial: Trial, deadline: float) -> None:
    """Writes that arrive by half or twice, and a vandal who litters the log with copies."""
    rng = trial.random
    for index in range(PARTIES):
        trial.start(index, Faults(seed=rng.randrange(2**31), tear=0.15, repeat=0.15))
    while trial.sealed() < ROUNDS - 1 and time.monotonic() < deadline:
        litter(trial.spec.store, rng)
        time.sleep(0.05)


def litter(store: Path, rng: random.Random) -> None:
    """A copy of an object, whole or truncated, in a free slot where another could stand."""
    objects = [
        path for path in store.rglob("*.json") if path.name != "charter.json" and path.is_file()
    ]
    if not objects:
        return
    data = rng.choice(objects).read_bytes()
    if rng.random() < 0.5:
        data = data[: len(data) * rng.randrange(100) // 100]
    stem, _, _ = rng.choice(objects).name.partition(".")
    folder = rng.choice(objects).parent
    target = folder / f"{stem}.{rng.randrange(3)}.json"
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except OSError:
        return
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def skew(trial: Trial, deadline: float) -> None:
    """Every party's clocks are wrong by up to ten minutes, one at least by all ten."""
    skews = [trial.random.uniform(-600, 600) for _ in range(PARTIES)]
    skews[trial.random.randrange(PARTIES)] = trial.random.choice((-600.0, 600.0))
    for index in range(PARTIES):
        trial.start(index, Faults(skew_s=skews[index]))


def rejoin(trial: Trial, deadline: float) -> None:
    """A party freezes and wakes with its old state, rounds later; or another took its place."""
    rng, victim = trial.random, trial.random.randrange(PARTIES)
    for index in range(PARTIES):
        trial.start(index)
    asleep_from = rng.randint(0, 2)
    trial.wait_for_round(asleep_from, deadline)
    time.sleep(rng.uniform(0.0, 0.5))
    old = trial.processes[victim]
    os.kill(old, signal.SIGSTOP)
    trial.wait_for_round(min(ROUNDS - 2, asleep_from + rng.randint(1, 2)), deadline)
    if rng.random() < 0.5:
        trial.faulty.add(victim)
        trial.restart(victim)
        trial.wait_for_round(ROUNDS - 1, deadline)
        os.kill(old, signal.SIGCONT)
        _reap(old, deadline)
    else:
        trial.restarted_at[victim] = trial.sealed()
        os.kill(old, signal.SIGCONT)


def _reap(process: int, deadline: float) -> None:
    while time.monotonic() < deadline:
        if os.waitpid(process, os.WNOHANG)[0]:
            return
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


SCENARIOS: dict[str, Scenario] = {
    "kill": kill,
    "outage": outage,
    "slow": slow,
    "damage": damage,
    "skew": skew,
    "rejoin": rejoin,
}


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


def check(trial: Trial, statuses: dict[int, int | None]) -> dict[str, Any]:
    """What the log and the parties' events say of the trial."""
    view = View(open_store(str(trial.spec.store)), trial.spec.federation)
    view.refresh()
    sealed = view.chain.sealed
    decided = [
        (each.update.round, each.update.party)
        for round_ in sealed
        for each in (*round_.accepted, *round_.rejected)
    ]
    events = {index: events_of(party) for index, party in enumerate(trial.parties)}
    digests: dict[int, set[str]] = {}
    for each in _rounds(events):
        digests.setdefault(each["round"], set()).add(each["digest"])
    unwell = [
        index
        for index, status in statuses.items()
        if status != 0 and (index not in trial.faulty or index in trial.restarted_at)
    ]
    honest_rejected = [
        (each.update.round, each.update.party, each.reason)
        for round_ in sealed
        for each in round_.rejected
    ]
    return {
        "rounds_lost": max(0, ROUNDS - len(sealed)),
        "committed_twice": len(decided) - len(set(decided)),
        "digests_equal": all(len(found) == 1 for found in digests.values()),
        "unwell": unwell,
        "wait_s": max(_waits(trial, len(sealed)), default=0.0),
        "rounds_to_rejoin": _rounds_to_rejoin(trial, decided),
        "rejected": honest_rejected,
        "traces": [
            (party.folder / "trace.txt").read_text()[-600:]
            for party in trial.parties
            if (party.folder / "trace.txt").exists()
        ],
    }


def _rounds(events: dict[int, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    for own in events.values():
        yield from (event for event in own if event["event"] == "federation_round")


def _waits(trial: Trial, num_sealed: int) -> Iterator[float]:
    """Of each round the seconds from its quorum to its seal, by the times of the files."""
    for round_ in range(num_sealed):
        updates = trial.spec.store / "rounds" / f"{round_:08d}" / "updates"
        by_party: dict[str, float] = {}
        for path in updates.glob("*.json"):
            if path.stat().st_size and _is_whole(path):
                party = path.name.partition(".")[0]
                by_party[party] = min(by_party.get(party, 1e12), path.stat().st_mtime)
        seal = max((trial.spec.store / "seals").glob(f"{round_:08d}.*.json"), key=str)
        times = sorted(by_party.values())
        if len(times) >= TERMS.round.quorum:
            yield seal.stat().st_mtime - times[TERMS.round.quorum - 1]


def _is_whole(path: Path) -> bool:
    try:
        body = json.loads(path.read_bytes())["body"]
    except (ValueError, KeyError):
        return False
    return bool(body["kind"] == "update" and body["party"] == path.name.partition(".")[0])


def _rounds_to_rejoin(trial: Trial, decided: list[tuple[int, str]]) -> int | None:
    """Rounds from the one that was open when a party came back to its first update; the worst."""
    worst = None
    for index, round_ in trial.restarted_at.items():
        name = trial.parties[index].identity.party
        later = [each for each, party in decided if party == name and each >= round_]
        if later or round_ < ROUNDS - 1:
            took = (min(later) if later else ROUNDS) - round_
            worst = took if worst is None else max(worst, took)
    return worst


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


def sum_up(results: list[dict[str, Any]]) -> dict[str, Any]:
    """All trials of a kind in a few figures."""
    broken = [each for each in results if "error" in each]
    whole = [each for each in results if "error" not in each]
    bad = [each for each in whole if not _is_good(each)]
    rejoins = [each["rounds_to_rejoin"] for each in whole if each["rounds_to_rejoin"] is not None]
    return {
        "trials": len(results),
        "rounds_lost": sum(each["rounds_lost"] for each in whole),
        "committed_twice": sum(each["committed_twice"] for each in whole),
        "digests_equal": all(each["digests_equal"] for each in whole) and not broken,
        "longest_wait_s": max((each["wait_s"] for each in whole), default=0.0),
        "grace_s": GRACE_S,
        "rejoins": len(rejoins),
        "rounds_to_rejoin_max": max(rejoins, default=None),
        "honest_updates_rejected": sum(len(each["rejected"]) for each in whole),
        "bad": bad[:5],
        "broken": broken[:5],
        "source": "measured",
    }


def _is_good(result: dict[str, Any]) -> bool:
    return (
        not result["rounds_lost"]
        and not result["committed_twice"]
        and result["digests_equal"]
        and not result["unwell"]
        and result["wait_s"] <= GRACE_S
    )


def run_kind(kind: str, trials: int, seed: int, at_once: int) -> dict[str, Any]:
    """All trials of one kind, some at a time."""
    from concurrent.futures import ProcessPoolExecutor

    say(f"{kind}: {trials} trials")
    with ProcessPoolExecutor(at_once) as pool:
        results = list(pool.map(isolated, [kind] * trials, range(seed, seed + trials)))
    figures = sum_up(results)
    say(json.dumps(figures))
    return figures


def run_faults(
    trials: int, seed: int = 0, only: str | None = None, at_once: int = 2
) -> dict[str, Any]:
    """Every kind of fault; `at_once` trials together (an outage's mostly wait: four times that)."""
    one_thread()
    simulated_text(lambda text: None)  # prepared once, before the processes part
    kinds = [only] if only else list(SCENARIOS)
    found = {
        kind: run_kind(kind, trials, seed, at_once * (4 if kind == "outage" else 1))
        for kind in kinds
    }
    return {
        "kinds": found,
        "rounds_lost": sum(each["rounds_lost"] for each in found.values()),
        "digests_equal": all(each["digests_equal"] for each in found.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the result as JSON at the end")
    parser.add_argument("--only", choices=list(SCENARIOS), help="one kind of fault")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=2)
    arguments = parser.parse_args()
    result = run_faults(arguments.trials, arguments.seed, arguments.only, arguments.at_once)
    result["origin"] = origin()
    print(json.dumps(result, indent=None if arguments.json else 2))


if __name__ == "__main__":
    sys.exit(main())
