"""What a run folder knows of the federation that its run takes part in: `federation.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from motley.chips.chip import Link
from motley.errors import RunFolderError, not_written
from motley.federation.storage.shaped import ShapedStore
from motley.federation.storage.store import Store, open_store
from motley.files import write_whole
from motley.schema import build

PARTY_FILE = "federation.json"


@dataclass(frozen=True, kw_only=True)
class PartyConfig:
    """How the party of a run reaches its federation."""

    store: str
    """A folder or URL."""
    federation: str
    """Digest of the charter, so that a run never goes on in another federation."""
    key: str
    """The party's key file."""
    link: Link | None = None
    """An emulated link to the store; unset: as it is."""

    def open_store(self) -> Store:
        """The store, over the emulated link if there is one."""
        store = open_store(self.store)
        return ShapedStore(store, self.link) if self.link else store


def is_party(run: Path) -> bool:
    """Whether a run takes part in a federation."""
    return (run / PARTY_FILE).is_file()


def write_party(run: Path, config: PartyConfig) -> None:
    """`StorageError` if the disk does not take it."""
    try:
        write_whole(run / PARTY_FILE, json.dumps(asdict(config), indent=2) + "\n")
    except OSError as cause:
        raise not_written(run, cause, "Free space.") from None


def read_party(run: Path) -> PartyConfig:
    """`RunFolderError` if the run takes part in none."""
    try:
        table = json.loads((run / PARTY_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise RunFolderError(f"{run} is not the run of a party: {cause}.") from None
    return build(PartyConfig, table, PARTY_FILE, RunFolderError)
