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
    │   ├── RunFolderError        17   a run folder that exists, is missing or is not one
    │   └── TermsError            18   what a founder wants a federation to be
    ├── NoPlanError               20   the model fits on no split of the cluster
    ├── CheckpointError           30   no whole checkpoint to go on from
    │   └── StorageError          31   the disk is full or not writable
    ├── TrainingError             40
    │   ├── ChipLostError         41   a chip's process died
    │   ├── ChipOutOfMemoryError  42
    │   ├── LaunchError           43   the processes could not be started
    │   └── DivergedError         44   the loss is not finite
    ├── ProbeError                50   a device could not be measured
    └── FederationError           60
        ├── StoreError            61   the object store cannot be used as it is
        │   └── StoreUnreachableError  62   it may answer later
        ├── CharterError          63   missing, changed, or not the one that was joined
        ├── IdentityError         64   a key that is missing, in use, or not a member's
        ├── VoidObjectError       65   an object of the log that is not valid in its place
        ├── LogDamagedError       66   what a seal needs is not in the store any more
        ├── StateDivergedError    67   this party's parameters differ from the others'
        ├── VerificationError     68   the log does not hold what it claims
        └── PayloadError          69   an update's bytes are not what the codec writes
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


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


class TermsError(InputError):
    exit_code = 18


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


class FederationError(MotleyError):
    exit_code = 60


class StoreError(FederationError):
    exit_code = 61


class StoreUnreachableError(StoreError):
    exit_code = 62


class CharterError(FederationError):
    exit_code = 63


class IdentityError(FederationError):
    exit_code = 64


class VoidObjectError(FederationError):
    exit_code = 65


class LogDamagedError(FederationError):
    exit_code = 66


class StateDivergedError(FederationError):
    exit_code = 67


class VerificationError(FederationError):
    exit_code = 68


class PayloadError(FederationError):
    """An update's payload is refused; `reason` is the word of the protocol for it."""

    exit_code = 69

    def __init__(self, message: str, *, reason: str, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.reason = reason


def not_written(
    path: Path,
    cause: OSError,
    remedy: str = "Name a file in a folder that exists, is writable and has some space.",
) -> StorageError:
    """The error of a file that the disk does not take; unless said otherwise, the user named it."""
    return StorageError(f"{path} cannot be written: {cause.strerror or cause}.", remedy=remedy)


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that suggests the known name nearest to `name`; empty if none is near."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"Did you mean '{matches[0]}'?" if matches else ""
