"""`motley`: the verbs, thin. Heavy imports happen inside the verbs, so that --help is fast."""

from __future__ import annotations

import sys

import typer

from motley.cli import federation_verbs, verbs
from motley.errors import MotleyError

app = typer.Typer(
    name="motley",
    help="Train large models on the chips you have.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verb in (
    verbs.probe,
    verbs.plan,
    verbs.scale,
    verbs.replace,
    verbs.predict,
    verbs.train,
    verbs.calibrate,
    verbs.ablate,
    verbs.vocabulary,
    verbs.sample,
    verbs.report,
    verbs.doctor,
):
    app.command()(verb)
app.add_typer(federation_verbs.app)

INTERRUPTED = 130
"""What typer makes of Ctrl-C, as shells do."""


def run() -> None:
    """The entry point: an error of ours becomes one message and its exit code."""
    try:
        app(prog_name="motley")
    except MotleyError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.remedy:
            print(error.remedy, file=sys.stderr)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            print("stopped.", file=sys.stderr)
        raise
    except BrokenPipeError:
        sys.exit(1)


if __name__ == "__main__":
    run()
