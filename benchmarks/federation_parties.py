"""Parties as processes of their own, small enough to start hundreds of: for faults and links.

Each process is a fork of one that has imported everything. It is a whole party: the main job's
engine on an emulated chip, a correspondence in its thread, the course of a party between them. It
differs from `motley federation join` in that it has one chip and writes no checkpoint.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from motley.data import PreparedData, SampleSource
from motley.errors import MotleyError, StoreUnreachableError
from motley.events import EventLog, read_events
from motley.federation.keys.identity import Identity
from motley.federation.log.view import find_charter
from motley.federation.party.correspondence import Correspondence
from motley.federation.party.course import PartyCourse
from motley.federation.party.lone import lone_engine, lone_process
from motley.federation.party.rounds import Member
from motley.federation.storage.store import Entry, Store, Traffic, open_store
from motley.recipe import Recipe
from motley.train.whole import WholeModel

T = TypeVar("T")

EXIT_OURS = 3
"""A party that ended with one of our messages."""


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What goes wrong in one process. Numbers of calls count those to the store, from 1."""

    seed: int = 0
    die_at_call: int | None = None
    die_at_seal: bool = False
    """Dies at its first call that writes a seal."""
    die_before: bool = True
    """The call that it dies at has not reached the store."""
    outage: Path | None = None
    """While this file is there, the store cannot be reached."""
    tear: float = 0.0
    """Share of the writes of which half the bytes arrive and no answer."""
    repeat: float = 0.0
    """Share of the writes that arrive, without an answer."""
    skew_s: float = 0.0
    """By which this process's clocks are wrong."""


class FaultyStore:
    """A store seen through faults."""

    def __init__(self, store: Store, faults: Faults) -> None:
        self._store = store
        self._faults = faults
        self._random = random.Random(faults.seed)
        self._calls = 0
        self._lock = threading.Lock()

    @property
    def traffic(self) -> Traffic:
        return self._store.traffic

    def put_new(self, key: str, data: bytes) -> bool:
        def put() -> bool:
            chance = self._random.random()
            if chance < self._faults.tear:
                self._store.put_new(key, data[: len(data) // 2])
                raise StoreUnreachableError(f"the connection broke while {key} was written.")
            is_new = self._store.put_new(key, data)
            if chance < self._faults.tear + self._faults.repeat:
                raise StoreUnreachableError(f"no answer came after {key} was written.")
            return is_new

        return self._call(put, is_seal=key.startswith("seals/"))

    def get(self, key: str, max_bytes: int) -> bytes | None:
        return self._call(lambda: self._store.get(key, max_bytes))

    def size(self, key: str) -> int | None:
        return self._call(lambda: self._store.size(key))

    def list(self, prefix: str, after: str = "") -> list[Entry]:
        return self._call(lambda: self._store.list(prefix, after))

    def _call(self, call: Callable[[], T], *, is_seal: bool = False) -> T:
        faults = self._faults
        with self._lock:
            self._calls += 1
            dies = self._calls == faults.die_at_call or (is_seal and faults.die_at_seal)
        if dies and faults.die_before:
            os.kill(os.getpid(), signal.SIGKILL)
        if faults.outage and faults.outage.exists():
            raise StoreUnreachableError("the store cannot be reached.")
        result = call()
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return result


@dataclass(frozen=True, kw_only=True)
class PartySpec:
    """One party of a trial."""

    identity: Identity
    folder: Path
    """Where it writes its events."""
    seed: int
    flops_per_s: float
    """Of its emulated chip."""


@dataclass(frozen=True, kw_only=True)
class FederationSpec:
    """What all parties of a trial share."""

    store: Path
    federation: str
    recipe: Recipe
    data: PreparedData
    wrap: Callable[[Store], Store] = field(default=lambda store: store)
    """Puts an emulated link before the store, for example."""


def start_party(federation: FederationSpec, party: PartySpec, faults: Faults | None = None) -> int:
    """Forks a process that is the party until the federation is done; its id."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    try:
        with lone_process():
            _run(federation, party, faults or Faults())
    except MotleyError as error:
        with EventLog.open(party.folder / "events.jsonl") as log:
            log.write("ended", kind=type(error).__name__, text=error.message)
        os._exit(EXIT_OURS)
    except BaseException:
        (party.folder / "trace.txt").write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)


def _run(federation: FederationSpec, party: PartySpec, faults: Faults) -> None:
    party.folder.mkdir(parents=True, exist_ok=True)
    true_time, true_clock = time.time, time.monotonic
    if faults.skew_s:
        time.time = lambda: true_time() + faults.skew_s
    store = federation.wrap(FaultyStore(open_store(str(federation.store)), faults))
    log = EventLog.open(party.folder / "events.jsonl")
    log.write("started")
    engine = lone_engine(federation.recipe, party.flops_per_s)
    member = Member(
        store,
        party.identity,
        federation.federation,
        clock=lambda: true_clock() + faults.skew_s,
        report=lambda text: log.write("message", text=text),
    )
    correspondence = Correspondence(
        member,
        chips={"emulated": 1},
        record=log.write,
        residuals=party.folder / "residuals",
    )
    charter, _ = find_charter(store, federation.federation)
    course = PartyCourse(charter, WholeModel(engine), correspondence)
    samples = SampleSource(
        federation.data.train, federation.recipe.batch.sequence_length, party.seed
    )
    step = course.begin(0)
    log.write("training", round=member.next_round)
    engine.align()
    began, tokens, computing_s, until_last_step_s = time.monotonic(), 0, 0.0, 0.0
    while not course.is_over(step):
        rate = course.learning_rate(step)
        result = engine.train_step(step, samples, rate=rate, stop=False)
        step += 1
        tokens += result.num_targets
        computing_s += result.reports[0].compute_s + result.reports[0].optimizer_s
        until_last_step_s = time.monotonic() - began
        course.after_step(step, result)
    log.write(
        "finished",
        steps=step,
        tokens=tokens,
        seconds=time.monotonic() - began,
        computing_s=computing_s,
        until_last_step_s=until_last_step_s,
        digest=correspondence.state.digest(),
    )


def apart(work: Callable[[], Any], result: Path) -> Any:
    """What `work` gives, as JSON, done in a fork: threads that it starts stay out of this process,
    which may fork again. `RuntimeError` with its trace if it fails."""
    child = os.fork()
    if not child:
        try:
            result.write_text(json.dumps({"value": work()}))
        except BaseException:
            result.write_text(json.dumps({"trace": traceback.format_exc()}))
        os._exit(0)
    os.waitpid(child, 0)
    outcome = json.loads(result.read_text())
    if "trace" in outcome:
        raise RuntimeError(outcome["trace"])
    return outcome["value"]


def events_of(party: PartySpec) -> list[dict[str, Any]]:
    """All that the party's processes have written; none if none has started."""
    path = party.folder / "events.jsonl"
    return read_events(path) if path.exists() and path.stat().st_size else []


def one_thread() -> None:
    """What a process must do before it forks others that compute. The constructors of optimizers
    import the compiler, which would take every fork a second."""
    importlib.import_module("torch._dynamo")
    torch.set_num_threads(1)
