"""Every error a user can meet, in one tree.

A message says what happened and why; `remedy` says what to do next. The command line prints both
and exits with the class's `exit_code`; nothing else in the package calls `sys.exit`.

    MotleyError                    1
    ├── InputError                 2   a file, flag or name the user gave
    │   ├── RecipeError           11
    │   ├── ClusterError          12
    │   ├── UnknownChipError      13
    │   ├── CorpusError           14
    │   ├── TokenizerError        15
    │   ├── PlanMismatchError     16   a plan made for another recipe or cluster
    │   └── RunFolderError        17   a run folder that exists, is missing or is not one
    ├── NoPlanError               20   the model fits on no split of the cluster
    ├── CheckpointError           30   no whole checkpoint to go on from
    │   └── StorageError          31   the disk is full or not writable
    ├── TrainingError             40
    │   ├── ChipLostError         41   a chip's process died
    │   ├── ChipOutOfMemoryError  42
    │   ├── LaunchError           43   the processes could not be started
    │   └── DivergedError         44   the loss is not finite
    └── ProbeError                50   a device could not be measured
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MotleyError(Exception):
    """Base of all errors that are shown to the user as one message."""

    exit_code = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n{self.remedy}" if self.remedy else self.message


class InputError(MotleyError):
    exit_code = 2


class RecipeError(InputError):
    exit_code = 11


class ClusterError(InputError):
    exit_code = 12


class UnknownChipError(InputError):
    exit_code = 13


class CorpusError(InputError):
    exit_code = 14


class TokenizerError(InputError):
    exit_code = 15


class PlanMismatchError(InputError):
    exit_code = 16


class RunFolderError(InputError):
    exit_code = 17


class NoPlanError(MotleyError):
    exit_code = 20


class CheckpointError(MotleyError):
    exit_code = 30


class StorageError(CheckpointError):
    exit_code = 31


class TrainingError(MotleyError):
    exit_code = 40


class ChipLostError(TrainingError):
    """A chip's process died; `chip` names it."""

    exit_code = 41

    def __init__(self, message: str, *, chip: str, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.chip = chip


class ChipOutOfMemoryError(TrainingError):
    """A chip was asked for more memory than it has; `chip` names it."""

    exit_code = 42

    def __init__(self, message: str, *, chip: str, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.chip = chip


class LaunchError(TrainingError):
    exit_code = 43


class DivergedError(TrainingError):
    exit_code = 44


class ProbeError(MotleyError):
    exit_code = 50


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that suggests the known name nearest to `name`; empty if none is near."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"Did you mean '{matches[0]}'?" if matches else ""
