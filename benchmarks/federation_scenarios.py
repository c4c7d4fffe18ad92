"""What goes wrong in the trials of `federation_faults.py`: kills, outages, delays, damage."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from federation_parties import Faults, FederationSpec, PartySpec, events_of, start_party
from motley.federation.charter.terms import OuterConfig, RoundTerms, Terms
from motley.federation.codec import CodecConfig

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
    back_at: dict[int, int] = field(default_factory=dict)
    """Index of a party to the round that was open when it woke, or its process was started anew."""
    absent: dict[int, tuple[float, float | None]] = field(default_factory=dict)
    """Index of a party to the time from which it did nothing, and until when; None: until a new
    process of it began to train, or for ever."""

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
                if status:
                    self.absent[index] = (time.time(), None)
                return status
            time.sleep(0.01)
        return None

    def restart(self, index: int) -> None:
        self.back_at[index] = self.sealed()
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
    began = time.time()
    time.sleep(OUTAGE_S)
    flag.unlink()
    trial.absent = {index: (began, time.time()) for index in hit}


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
    trial.absent[victim] = (time.time(), None)
    trial.wait_for_round(min(ROUNDS - 2, asleep_from + rng.randint(1, 2)), deadline)
    if rng.random() < 0.5:
        trial.faulty.add(victim)
        trial.restart(victim)
        trial.wait_for_round(ROUNDS - 1, deadline)
        os.kill(old, signal.SIGCONT)
        _reap(old, deadline)
    else:
        trial.back_at[victim] = trial.sealed()
        os.kill(old, signal.SIGCONT)
        trial.absent[victim] = (trial.absent[victim][0], time.time())


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
