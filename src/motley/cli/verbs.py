"""What each verb takes, and which part of the package does it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print data instead of tables.")]
ClusterFile = Annotated[
    Path | None, typer.Option("--cluster", help="cluster.toml; without it this machine is probed.")
]
PlanFile = Annotated[Path | None, typer.Option("--plan", help="A plan.json made for these.")]
RunFolderArgument = Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder.")]


def probe(
    out: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path("cluster.toml"),
    as_json: AsJson = False,
) -> None:
    """Measure this machine's chips and links and write cluster.toml."""
    from motley.cli import probing

    probing.run(out, as_json=as_json)


def plan(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="recipe.toml")],
    cluster: ClusterFile = None,
    out: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path("plan.json"),
    as_json: AsJson = False,
) -> None:
    """Find the best split of a recipe over a cluster, and predict it."""
    from motley.cli import planning

    planning.run(recipe, cluster, out, as_json=as_json)


def train(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="RECIPE", help="recipe.toml; not with --resume.")
    ] = None,
    cluster: ClusterFile = None,
    plan: PlanFile = None,
    run: Annotated[
        Path | None, typer.Option("--run", help="The new run's folder; else runs/NAME.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="RUN", help="Go on with this run.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a recipe on a cluster: probe, plan, show the plan, train."""
    from motley.cli import training

    training.run(recipe, cluster, plan, run, resume, as_json=as_json)


def sample(
    run: RunFolderArgument,
    prompt: Annotated[str, typer.Option("--prompt", help="The text to go on from.")] = "",
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Tokens to write.")] = 200,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, help="0 takes the likeliest token.")
    ] = 0.8,
    seed: Annotated[int, typer.Option("--seed", help="The same seed, the same text.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Let a trained model write."""
    from motley.cli import sampling

    sampling.run(run, prompt, tokens, temperature, seed, as_json=as_json)


def report(run: RunFolderArgument, as_json: AsJson = False) -> None:
    """Sum up a run in the terminal and write its report.html."""
    from motley.cli import reporting

    reporting.run(run, as_json=as_json)


def doctor(as_json: AsJson = False) -> None:
    """Check whether this machine is ready to train."""
    from motley.cli import checking

    checking.run(as_json=as_json)
