"""`motley federation join`: this machine's chips train as a party of a federation."""

from __future__ import annotations

from pathlib import Path

from motley.cli.output import say
from motley.cli.planning import cluster_for, show_plan
from motley.cli.training import say_end, watch
from motley.recipe import load_recipe


def run(
    store: str,
    recipe_file: Path,
    key: Path,
    fingerprint: str | None,
    cluster_file: Path | None,
    run_path: Path | None,
    *,
    as_json: bool,
) -> None:
    """Joins, or goes on after a stop with the same folder; trains until the federation is done."""
    from motley.federation.keys.identity import load_identity
    from motley.federation.party.joining import WORKER, join
    from motley.federation.party.party_folder import PartyConfig
    from motley.train.launch import start

    recipe = load_recipe(recipe_file)
    path = run_path or Path("runs") / f"{recipe.name}-{load_identity(key).party}"
    config = PartyConfig(
        store=_absolute(store),
        federation=fingerprint or "",
        key=str(key.resolve()),
    )
    folder = join(config, recipe, cluster_for(cluster_file), path, say)
    if not as_json:
        show_plan(folder.plan(), folder.recipe(), folder.cluster())
    say(f"Training in {folder.path}. Ctrl-C publishes what is done, saves and stops.")
    go_on = "the same command again"
    watch(start(folder, WORKER), go_on, quiet=as_json)
    say_end(folder, go_on, as_json=as_json)


def _absolute(store: str) -> str:
    """A folder's path without regard to where a process runs; a URL as it is."""
    return store if "://" in store else str(Path(store).resolve())
