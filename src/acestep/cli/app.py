"""The `acestep` command line: which commands there are.

Each command imports what it needs when it is called: torch takes seconds to import, and `acestep --help`, a typing
mistake or a shell completion must not wait for it. That is why the imports of this room stand inside functions.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from acestep.cli.demo import demo
from acestep.cli.evaluate import evaluate
from acestep.cli.generate import generate
from acestep.cli.train import train

app = typer.Typer(
    name="acestep",
    help="Fine-tune ACE-Step with LoRA, hear what it does, and make songs with it.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"acestep {version('acesteps')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


app.command()(generate)
app.command()(train)
app.command()(evaluate)
app.command()(demo)


def main() -> None:
    """Entry point of the `acestep` command."""
    app()
