"""What each verb of `motley federation` takes; the work is done in `motley.cli.federating`
and `motley.cli.federation_views`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from motley.cli.verbs import AsJson, ClusterFile

app = typer.Typer(
    name="federation",
    help="Train one model together with other parties, over an object store.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

StoreArgument = Annotated[
    str, typer.Argument(metavar="STORE", help="A folder, or s3://, gs:// or az:// with a prefix.")
]
KeyFile = Annotated[Path, typer.Option("--key", help="Your key file, as keygen wrote it.")]
Fingerprint = Annotated[
    str | None, typer.Option("--fingerprint", help="The charter's, as the founder gave it.")
]


@app.command()
def keygen(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Your party's name: lab-a")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The file to write; else NAME.key.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key pair for a party, and print what the founder needs to know of it."""
    from motley.cli import federating

    federating.keygen(name, out or Path(f"{name}.key"), as_json=as_json)


@app.command()
def create(
    store: StoreArgument,
    recipe: Annotated[Path, typer.Option("--recipe", help="What all parties train.")],
    key: KeyFile,
    terms: Annotated[
        Path | None, typer.Option("--terms", help="federation.toml; without it, the defaults.")
    ] = None,
    member: Annotated[
        list[str] | None,
        typer.Option(
            "--member", metavar="NAME:PUBLICKEY", help="A party and its key; repeat for more."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Found a federation: check the store, write the base model and the charter."""
    from motley.cli import federating

    federating.create(store, recipe, terms, key, member or [], as_json=as_json)


@app.command()
def admit(
    store: StoreArgument,
    member: Annotated[
        str,
        typer.Argument(metavar="MEMBER", help="NAME:PUBLICKEY, or NAME to readmit."),
    ],
    key: KeyFile,
    fingerprint: Fingerprint = None,
    as_json: AsJson = False,
) -> None:
    """Admit a party, or readmit one that was removed or suspended."""
    from motley.cli import federating

    federating.admit(store, member, key, fingerprint, as_json=as_json)


@app.command()
def remove(
    store: StoreArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The party.")],
    key: KeyFile,
    fingerprint: Fingerprint = None,
    as_json: AsJson = False,
) -> None:
    """Remove a party from the next seal on.

    Its objects count nothing then; where payloads are encrypted the others have a new group key."""
    from motley.cli import federating

    federating.remove(store, name, key, fingerprint, as_json=as_json)


@app.command()
def rotate(
    store: StoreArgument, key: KeyFile, fingerprint: Fingerprint = None, as_json: AsJson = False
) -> None:
    """Hand out a new group key to all members."""
    from motley.cli import federating

    federating.rotate(store, key, fingerprint, as_json=as_json)


@app.command()
def status(store: StoreArgument, fingerprint: Fingerprint = None, as_json: AsJson = False) -> None:
    """Show the charter, the parties, and how far the rounds are."""
    from motley.cli import federation_views

    federation_views.status(store, fingerprint, as_json=as_json)


@app.command()
def ledger(
    store: StoreArgument,
    out: Annotated[Path | None, typer.Option("--out", help="A CSV file to write.")] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page with a picture, too.")
    ] = None,
    fingerprint: Fingerprint = None,
    as_json: AsJson = False,
) -> None:
    """Show what each party has given."""
    from motley.cli import federation_views

    federation_views.show_ledger(store, out, html, fingerprint, as_json=as_json)


@app.command()
def verify(
    store: StoreArgument,
    ledger: Annotated[
        Path | None, typer.Option("--ledger", help="A ledger's CSV to check line by line.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", help="A member's key file, if payloads are encrypted.")
    ] = None,
    fingerprint: Fingerprint = None,
    as_json: AsJson = False,
) -> None:
    """Replay the whole log from the charter and check every digest and ledger line."""
    from motley.cli import federation_views

    federation_views.check(store, ledger, key, fingerprint, as_json=as_json)


@app.command()
def join(
    store: StoreArgument,
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="The founder's, with your own text in [data].")
    ],
    key: KeyFile,
    fingerprint: Fingerprint = None,
    cluster: ClusterFile = None,
    run: Annotated[
        Path | None, typer.Option("--run", help="The party's run folder; the same goes on.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train as a party of a federation, on this machine's chips and your own text."""
    from motley.cli import joining

    joining.run(store, recipe, key, fingerprint, cluster, run, as_json=as_json)


@app.command()
def simulate(
    parties: Annotated[int, typer.Option("--parties", min=1, help="How many.")] = 256,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="How many.")] = 3,
    local_steps: Annotated[
        int, typer.Option("--local-steps", min=1, help="Of each party for each round.")
    ] = 3,
    store: Annotated[
        str | None, typer.Option("--store", help="Where to keep the log; else it is thrown away.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Try a federation of many parties on this machine, with a tiny model."""
    from motley.cli import simulating

    simulating.run(parties, rounds, local_steps, store, as_json=as_json)
