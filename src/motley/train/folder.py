"""The run folder: everything of one training, as files.

recipe.json  cluster.json  plan.json   what is run, resolved; each resume rewrites plan.json
tokenizer.json                         the run's own, in Hugging Face's format
data.json                              where the token shards lie, and what they were made from
selection/                             which samples of them are trained on, if the recipe selects
events.jsonl                           what happened, one event a line
checkpoints/                           training state
logs/  failures/                       output of the processes; the cause if one failed
stop                                   there while the run was asked to stop
"""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from motley.chips.chip import Chip
from motley.cluster import Cluster, parse_cluster
from motley.data import PreparedData, Tokenizer, load_tokenizer
from motley.data.selected import Selected
from motley.errors import RunFolderError, not_written
from motley.files import write_whole
from motley.plan.plan import Plan, load_plan
from motley.recipe import Recipe, parse_recipe
from motley.schema import build

NO_ROOM = "Free space there or name another folder with --run."
RECIPE = "recipe.json"
DATA = "data.json"
EXIT_CODES = "exit-codes.json"
"""In `failures`: rank to exit code, written when a run fails."""


@dataclass(frozen=True, kw_only=True)
class RunData:
    """The whole of `data.json`; a run from before they were kept has no digests."""

    folder: str
    """Where the token shards lie."""
    key: str | None = None
    """Of the prepared data; see `motley.data.prepared.cache_key`."""
    source_digest: str | None = None
    """Of the text."""
    tokenizer_digest: str | None = None


@dataclass(frozen=True)
class RunFolder:
    path: Path

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def recipe_file(self) -> Path:
        return self.path / RECIPE

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tokenizer_file(self) -> Path:
        return self.path / "tokenizer.json"

    @property
    def selection(self) -> Path:
        return self.path / "selection"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def failures(self) -> Path:
        return self.path / "failures"

    @property
    def stop_request(self) -> Path:
        return self.path / "stop"

    def recipe(self) -> Recipe:
        return parse_recipe(self._read(RECIPE), RECIPE)

    def cluster(self) -> Cluster:
        return parse_cluster(self._read("cluster.json"), "cluster.json")

    def plan(self) -> Plan:
        return load_plan(self.path / "plan.json")

    def plan_chip(self, rank: int) -> Chip:
        """The chip that a rank drives."""
        stage = list(self.plan().placements())[rank].stage
        return self.cluster().chip(stage.chip)

    def data(self) -> RunData:
        where = str(self.path / DATA)
        return build(RunData, self._read(DATA), where, RunFolderError)

    def data_folder(self) -> Path:
        return Path(self.data().folder)

    def tokenizer(self) -> Tokenizer:
        """The run's own; of a run that has none, that of its token shards."""
        data = self.data()
        if self.tokenizer_file.is_file():
            return load_tokenizer(self.tokenizer_file, data.tokenizer_digest)
        return PreparedData.load(Path(data.folder), data.tokenizer_digest).tokenizer

    def write(self, recipe: Recipe, cluster: Cluster, plan: Plan, data_folder: Path) -> None:
        """Writes what is run, the tokenizer of the prepared data with it; `StorageError` if the
        disk does not take it."""
        data = PreparedData.load(data_folder)
        index = data.index
        tables: dict[str, Any] = {
            RECIPE: recipe.to_dict(),
            "cluster.json": cluster.to_dict(),
            "plan.json": plan.to_dict(),
            DATA: asdict(
                RunData(
                    folder=str(data_folder),
                    key=index.key,
                    source_digest=index.source_digest,
                    tokenizer_digest=index.tokenizer_digest,
                )
            ),
        }
        try:
            write_whole(self.tokenizer_file, data.tokenizer.to_json())
            for name, table in tables.items():
                write_whole(self.path / name, json.dumps(table, indent=2) + "\n")
        except OSError as cause:
            raise not_written(self.path, cause, NO_ROOM) from None

    def write_selection(self, selected: Selected) -> None:
        """Copies a selection into the run; `StorageError` if the disk does not take it."""
        try:
            selected.copy_to(self.selection)
        except OSError as cause:
            raise not_written(self.selection, cause, NO_ROOM) from None

    def _read(self, name: str) -> dict[str, Any]:
        try:
            table = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as cause:
            raise RunFolderError(
                f"{self.path} is not a whole run: {name}: {cause}.",
                remedy="Name the folder of a run, or begin a new one.",
            ) from None
        if not isinstance(table, dict):
            raise RunFolderError(f"{self.path / name} does not hold a table.")
        return table


def resume_command(path: Path) -> str:
    """What goes on with the run of that folder, ready for a shell."""
    return shlex.join(["motley", "train", "--resume", str(path)])


def check_free(path: Path) -> None:
    """`RunFolderError` if something is at `path` already."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunFolderError(
            f"{path} exists already.",
            remedy=f"Go on with: {resume_command(path)}\nOr name another folder with --run.",
        )


def create_run_folder(path: Path) -> RunFolder:
    """A new run folder; `RunFolderError` if something is there already."""
    check_free(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        raise RunFolderError(f"{path} cannot be made: {cause}.") from None
    return RunFolder(path)


def open_run_folder(path: Path) -> RunFolder:
    """An existing run; `RunFolderError` if it is none."""
    if not RunFolder(path).recipe_file.is_file():
        why = "no such folder" if not path.is_dir() else f"there is no {RECIPE} in it"
        raise RunFolderError(f"{path} is not a run: {why}.", remedy="Check the path.")
    return RunFolder(path)
