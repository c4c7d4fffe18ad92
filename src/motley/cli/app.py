"""The verbs of `motley`, thin. Heavy imports happen inside the verbs, so that --help is fast."""

from __future__ import annotations

import typer

from motley.cli import federation_verbs, verbs

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
