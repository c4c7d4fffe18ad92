"""What the log and the parties' own events say of a trial of `federation_faults.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from federation_parties import events_of
from federation_scenarios import GRACE_S, ROUNDS, TERMS, Trial
from motley.federation.log.view import View
from motley.federation.storage.store import open_store


def check(trial: Trial, statuses: dict[int, int | None]) -> dict[str, Any]:
    """What the log and the parties' events say of the trial."""
    view = View(open_store(str(trial.spec.store)), trial.spec.federation)
    view.refresh()
    sealed = view.chain.sealed
    decided: list[tuple[int, str]] = []
    for round_ in sealed:
        decided += [(each.update.round, each.update.party) for each in round_.accepted]
        decided += [(each.update.round, each.update.party) for each in round_.rejected]
    events = {index: events_of(party) for index, party in enumerate(trial.parties)}
    digests: dict[int, set[str]] = {}
    for each in _rounds(events):
        digests.setdefault(each["round"], set()).add(each["digest"])
    unwell = [
        index
        for index, status in statuses.items()
        if status != 0 and (index not in trial.faulty or index in trial.back_at)
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
        "wait_s": max(_waits(trial, events, len(sealed)), default=0.0),
        "rejoins": list(_rejoins(trial, decided)),
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


def _waits(
    trial: Trial, events: dict[int, list[dict[str, Any]]], num_sealed: int
) -> Iterator[float]:
    """Of each round the seconds for which those who are left waited for its seal, by the times of
    the files: since a quorum of them had published, without a break.

    A party that is dead, frozen or cut off is not among them, though its update may lie there: with
    fewer than the quorum left nothing can be sealed, and that is no waiting for the slow.
    """
    gone = {index: _absence(trial, index, events[index]) for index in trial.absent}
    for round_ in range(num_sealed):
        seals = (trial.spec.store / "seals").glob(f"{round_:08d}.*.json")
        sealed_s = max(seals, key=str).stat().st_mtime
        published = _published(trial, round_)
        for moment_s in sorted([*published.values(), *(span[1] for span in gone.values())]):
            there = [
                index
                for index, at_s in published.items()
                if at_s <= moment_s and not _overlap(gone.get(index), moment_s, sealed_s)
            ]
            if len(there) >= TERMS.round.quorum and moment_s <= sealed_s:
                yield sealed_s - moment_s
                break


def _absence(trial: Trial, index: int, own: list[dict[str, Any]]) -> tuple[float, float]:
    """From when to when a party was away."""
    since_s, until_s = trial.absent[index]
    if until_s is None:
        begun = (each["time"] for each in own if each["event"] == "training")
        until_s = next((time_s for time_s in begun if time_s > since_s), float("inf"))
    return since_s, until_s


def _overlap(span: tuple[float, float] | None, from_s: float, to_s: float) -> bool:
    return span is not None and span[0] < to_s and from_s < span[1]


def _published(trial: Trial, round_: int) -> dict[int, float]:
    """Index of a party to the time at which its update of a round was there whole."""
    updates = trial.spec.store / "rounds" / f"{round_:08d}" / "updates"
    found = {}
    for index, party in enumerate(trial.parties):
        times = [
            path.stat().st_mtime
            for path in updates.glob(f"{party.identity.party}.*.json")
            if path.stat().st_size and _is_whole(path)
        ]
        if times:
            found[index] = min(times)
    return found


def _is_whole(path: Path) -> bool:
    try:
        body = json.loads(path.read_bytes())["body"]
    except (ValueError, KeyError):
        return False
    return bool(body["kind"] == "update" and body["party"] == path.name.partition(".")[0])


def _rejoins(trial: Trial, decided: list[tuple[int, str]]) -> Iterator[dict[str, int]]:
    """Of each party that came back the rounds until its first update: from the round that was open
    when its process was started, and from that in which it had begun its session. A party that came
    back for the last round has none to be measured by."""
    for index, round_ in trial.back_at.items():
        name = trial.parties[index].identity.party
        began = max(round_, _last_session_round(trial, index))
        later = [each for each, party in decided if party == name and each >= round_]
        if later or began < ROUNDS - 1:
            first = min(later, default=ROUNDS)
            yield {"from_start": first - round_, "from_session": max(0, first - began)}


def _last_session_round(trial: Trial, index: int) -> int:
    """The round that was open when the party's newest process told of itself."""
    folder = trial.spec.store / "sessions" / trial.parties[index].identity.party
    rounds = [json.loads(path.read_bytes())["body"]["round"] for path in folder.glob("*.json")]
    return max(rounds, default=0)


def sum_up(results: list[dict[str, Any]]) -> dict[str, Any]:
    """All trials of a kind in a few figures."""
    broken = [each for each in results if "error" in each]
    whole = [each for each in results if "error" not in each]
    bad = [each for each in whole if not _is_good(each)]
    rejoins = [rejoin for each in whole for rejoin in each["rejoins"]]
    return {
        "trials": len(results),
        "rounds_lost": sum(each["rounds_lost"] for each in whole),
        "committed_twice": sum(each["committed_twice"] for each in whole),
        "digests_equal": all(each["digests_equal"] for each in whole) and not broken,
        "longest_wait_s": max((each["wait_s"] for each in whole), default=0.0),
        "grace_s": GRACE_S,
        "rejoins": len(rejoins),
        "rounds_to_rejoin_max": max((each["from_session"] for each in rejoins), default=None),
        "rounds_to_rejoin_from_start_max": max(
            (each["from_start"] for each in rejoins), default=None
        ),
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
