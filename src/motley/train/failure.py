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

from motley.errors import (
    ChipLostError,
    ChipOutOfMemoryError,
    MotleyError,
    TrainingError,
)
from motley.plan.plan import Plan

PEER_LOST = ("connection closed by peer", "connection reset", "broken pipe", "timed out waiting")


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
    chips = {place.rank: place.stage.chip for place in plan.placements()}
    for account in accounts:
        if account["is_ours"]:
            return _as_error(account, folder)
    for rank, code in sorted(exit_codes.items()):
        if code < 0 and code != -signal.SIGTERM:
            return _lost(chips.get(rank, "?"), rank, f"killed by {_signal_name(-code)}", step)
    for account in accounts:
        if not any(text in account["message"].lower() for text in PEER_LOST):
            return _as_error(account, folder)
    rank = min(exit_codes, default=0)
    code = exit_codes.get(rank, 1)
    return _lost(chips.get(rank, "?"), rank, f"its process ended with code {code}", step)


def _lost(chip: str, rank: int, how: str, step: int) -> ChipLostError:
    return ChipLostError(
        f"chip '{chip}' (rank {rank}) was lost after step {step}: {how}.",
        chip=chip,
        remedy="Go on with the chips that are left: motley train --resume RUN.",
    )


def _as_error(account: dict[str, Any], folder: Path) -> MotleyError:
    kind, chip = account["kind"], account["chip"]
    remedy = account["remedy"] or f"The full trace is in {folder}/rank-{account['rank']}.json."
    if kind == "ChipOutOfMemoryError" or "out of memory" in account["message"].lower():
        return ChipOutOfMemoryError(account["message"], chip=chip, remedy=remedy)
    message = account["message"]
    if not account["is_ours"]:
        message = f"chip '{chip}' (rank {account['rank']}) failed: {kind}: {message}"
    error = TrainingError(message, remedy=remedy)
    error.exit_code = account["exit_code"]  # type: ignore[misc]
    return error


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
