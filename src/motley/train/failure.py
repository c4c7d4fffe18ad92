"""How a failed run is explained: one cause, once, with the chip that it hit.

Each rank that fails writes its own account into the run's `failures` folder; the launcher picks
the cause among them. A rank that only lost its connection to another is never the cause.
"""

from __future__ import annotations

import json
import signal
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from motley import errors
from motley.errors import (
    ChipLostError,
    ChipOutOfMemoryError,
    MotleyError,
    TrainingError,
)
from motley.plan.plan import Plan

PEER_LOST = (
    "connection closed by peer",
    "connection reset",
    "connection refused",
    "connection was likely closed",
    "broken pipe",
    "timed out waiting",
    "caused pair closure",
    "remote process exited",
)
"""What gloo, the rendezvous store and the collective libraries say when another rank is gone."""

LESS = 0.9
"""Of what a plan expected of a chip that ran out of memory; for the next one."""
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "unable to allocate", "memoryerror")


def write_failure(folder: Path, rank: int, chip: str, error: BaseException) -> None:
    """This rank's account of why it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    account = {
        "rank": rank,
        "chip": chip,
        "kind": type(error).__name__,
        "message": getattr(error, "message", str(error)),
        "remedy": getattr(error, "remedy", ""),
        "exit_code": getattr(error, "exit_code", 1),
        "is_ours": isinstance(error, MotleyError),
        "trace": "".join(traceback.format_exception(error)),
    }
    path = folder / f"rank-{rank}.json"
    path.write_text(json.dumps(account, indent=1), encoding="utf-8")


def explain(folder: Path, plan: Plan, exit_codes: Mapping[int, int], step: int) -> MotleyError:
    """The one error of a failed run, from the accounts and the processes' exit codes."""
    accounts = _read_accounts(folder)
    causes = [account for account in accounts if not _lost_its_peer(account)]
    chips = {place.rank: place.stage.chip for place in plan.placements()}
    for account in causes:
        if account["is_ours"]:
            return _as_error(account, folder, plan)
    for rank, code in sorted(exit_codes.items()):
        if code < 0 and code != -signal.SIGTERM:
            return _lost(chips.get(rank, "?"), rank, f"killed by {_signal_name(-code)}", step)
    if causes:
        return _as_error(causes[0], folder, plan)
    silent = set(exit_codes) - {account["rank"] for account in accounts}
    rank = min(silent or exit_codes, default=0)
    code = exit_codes.get(rank, 1)
    return _lost(chips.get(rank, "?"), rank, f"its process ended with code {code}", step)


def _lost_its_peer(account: dict[str, Any]) -> bool:
    return any(text in account["message"].lower() for text in PEER_LOST)


def _lost(chip: str, rank: int, how: str, step: int) -> ChipLostError:
    return ChipLostError(
        f"chip '{chip}' (rank {rank}) was lost after step {step}: {how}.",
        chip=chip,
        remedy="Go on with the chips that are left: motley train --resume RUN",
    )


def _as_error(account: dict[str, Any], folder: Path, plan: Plan) -> MotleyError:
    """The error that the rank raised; one that is not ours becomes a `TrainingError`."""
    chip, message = account["chip"], account["message"]
    trace = f"The full trace is in {folder}/rank-{account['rank']}.json."
    remedy = account["remedy"] or trace
    raised = getattr(errors, account["kind"], None) if account["is_ours"] else None
    said = f"{account['kind']}: {message}".lower()
    if raised is None:
        message = f"chip '{chip}' (rank {account['rank']}) failed: {account['kind']}: {message}"
    if raised is ChipOutOfMemoryError or any(text in said for text in OUT_OF_MEMORY):
        less = _less_memory(chip, plan)
        remedy = f"{less}\n{trace}" if raised is None else less
        return ChipOutOfMemoryError(message, chip=chip, remedy=remedy)
    if raised is not None:
        named = {"chip": chip} if issubclass(raised, ChipLostError) else {}
        error: MotleyError = raised(message, remedy=remedy, **named)
        return error
    return TrainingError(message, remedy=remedy)


def _less_memory(chip: str, plan: Plan) -> str:
    """A new plan surely gives the chip less only if it may have less than this one expects."""
    stages = (place.stage for place in plan.placements())
    planned = max((stage.memory_bytes for stage in stages if chip in stage.chips), default=0)
    expected = f" to {round(LESS * planned)} (this plan expects {planned})" if planned else ""
    return (
        f"Lower memory_bytes of '{chip}' in the cluster file{expected}, which makes a new plan: "
        "motley train --resume RUN --cluster FILE"
    )


def _read_accounts(folder: Path) -> list[dict[str, Any]]:
    accounts = []
    for path in sorted(folder.glob("rank-*.json")):
        try:
            accounts.append(json.loads(path.read_text(encoding="utf-8")))
        except ValueError:
            continue
    return accounts


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
