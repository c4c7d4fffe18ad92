"""What each verb takes, and which part of the package does it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print data instead of tables.")]
ClusterFile = Annotated[
    Path | None, typer.Option("--cluster", help="cluster.toml; without it this machine is probed.")
]
PlanFile = Annotated[Path | None, typer.Option("--plan", help="A plan.json made for these.")]
RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="recipe.toml, a model's name or its config.json.")
]
RunFolderArgument = Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder.")]


def probe(
    out: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path("cluster.toml"),
    as_json: AsJson = False,
) -> None:
    """Measure this machine's chips and links and write cluster.toml."""
    from motley.cli import probing

    probing.run(out, as_json=as_json)


def plan(
    recipe: RecipeArgument,
    cluster: ClusterFile = None,
    goal: Annotated[
        Literal["time", "cost", "deadline"],
        typer.Option("--goal", help="Shortest step, cheapest token, or cheapest in time."),
    ] = "time",
    hours: Annotated[
        float | None,
        typer.Option("--hours", help="Time to train: the advice's, and the deadline."),
    ] = None,
    trainable: Annotated[
        bool, typer.Option("--trainable", help="Only plans that motley train executes today.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page of pictures, too.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path("plan.json"),
    as_json: AsJson = False,
) -> None:
    """Find the best split of a recipe or model over a cluster, and predict it."""
    from motley.cli import planning

    planning.run(recipe, cluster, goal, hours, out, html, trainable=trainable, as_json=as_json)


def scale(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="RECIPE", help="recipe.toml; else the frugal one.")
    ] = None,
    hours: Annotated[
        float | None, typer.Option("--hours", help="To the best size for so long a training.")
    ] = None,
    cluster: ClusterFile = None,
    layers: Annotated[int | None, typer.Option("--layers", min=1, help="To this depth.")] = None,
    width: Annotated[int | None, typer.Option("--width", min=1, help="To this width.")] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="To so many samples a step.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="To so many steps.")] = None,
    out: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path("scaled.toml"),
    as_json: AsJson = False,
) -> None:
    """Write a recipe at another size, learning rates and all, or at the best one for your chips."""
    from motley.cli import scaling
    from motley.recipe.transfer import Target

    target = Target(layers=layers, width=width, global_batch=batch, steps=steps)
    scaling.run(recipe, hours, cluster, target, out, as_json=as_json)


def replace(
    strong: Annotated[str, typer.Argument(metavar="CHIP", help="The catalog id to replace.")],
    weak: Annotated[
        list[str], typer.Option("--with", metavar="CHIP", help="A weaker one; repeat for more.")
    ],
    model: Annotated[
        str, typer.Option("--model", metavar="MODEL", help="Its name, config.json or recipe.toml.")
    ],
    count: Annotated[int, typer.Option("--count", min=1, help="Strong chips to replace.")] = 1,
    per_node: Annotated[int, typer.Option("--per-node", min=1, help="Most chips of one node.")] = 8,
    network_gbit: Annotated[
        float, typer.Option("--network-gbit", help="Gbit/s of each node to the others.")
    ] = 100.0,
    price: Annotated[
        list[str] | None,
        typer.Option(
            "--price", metavar="CHIP=USD", help="Your price per chip-hour; repeat for more."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find which weaker chips reach a strong chip's tokens/s, and what they take."""
    from motley.cli import replacing

    replacing.run(strong, weak, model, count, per_node, network_gbit, price or [], as_json=as_json)


def predict(
    plan: Annotated[
        Path | None, typer.Option("--plan", help="A plan.json, made or written by hand.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="recipe.toml or a model's name.")
    ] = None,
    cluster: Annotated[Path | None, typer.Option("--cluster", help="cluster.toml")] = None,
    table: Annotated[
        Path | None, typer.Option("--table", help="Trainings, one a line, as CSV.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="With --table: the CSV to write.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Predict a given plan, or every line of a table of trainings."""
    from motley.cli import predicting

    predicting.run(plan, recipe, cluster, table, out, as_json=as_json)


def calibrate(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="A run's folder; or --recipe.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="recipe.toml to run some steps of.")
    ] = None,
    cluster: Annotated[
        Path | None, typer.Option("--cluster", help="cluster.toml to calibrate.")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=7, help="Steps of that run.")] = 12,
    out: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path(
        "calibrated.toml"
    ),
    as_json: AsJson = False,
) -> None:
    """Fit a cluster's times to a short real run, and write a new cluster.toml."""
    from motley.cli import calibrating

    calibrating.run(run, recipe, cluster, steps, out, as_json=as_json)


def train(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="RECIPE", help="recipe.toml; else the frugal one.")
    ] = None,
    hours: Annotated[
        float | None, typer.Option("--hours", help="Without RECIPE: train about so long. [1]")
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", metavar="PATH", help="Without RECIPE: your text; repeat for more."),
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
    """Train a recipe on a cluster: probe, plan, show the plan, train.

    Without RECIPE the frugal recipe is scaled to what the chips compute in --hours.
    """
    from motley.cli import training

    what = training.What(recipe, hours, tuple(data or ()), resume)
    training.run(what, cluster, plan, run, as_json=as_json)


def ablate(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="recipe.toml.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE[,...]", help="A variant; repeat for more."),
    ] = None,
    ladder: Annotated[
        Path | None, typer.Option("--ladder", help="A file of variants, instead of --set.")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of each variant.")] = 3,
    cluster: ClusterFile = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The folder of the runs; else runs/NAME-ablation.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train variants of a recipe with several seeds and tell gains from noise."""
    from motley.cli import ablating

    ablating.run(recipe, settings or [], ladder, seeds, cluster, out, as_json=as_json)


def vocabulary(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="recipe.toml.")],
    sizes: Annotated[
        list[int] | None,
        typer.Option("--size", metavar="N", min=257, help="A size; repeat to compare."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare sizes of the vocabulary on a recipe's text by FLOPs per byte."""
    from motley.cli import vocabulary as comparing

    comparing.run(recipe, sizes or [], as_json=as_json)


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
