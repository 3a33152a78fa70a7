"""The `acestep` command line: which commands there are.

Each command imports what it needs when it is called: torch takes seconds to import, and `acestep --help`, a typing
mistake or a shell completion must not wait for it. That is why the imports of this room stand inside functions.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Annotated

import typer

from acestep.cli.control import control
from acestep.cli.demo import demo
from acestep.cli.doctor import doctor
from acestep.cli.evaluate import evaluate
from acestep.cli.generate import generate
from acestep.cli.lora import lora_app
from acestep.cli.lora_merge import bake, extract, lineage, merge, methods
from acestep.cli.report import report
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
app.command()(control)
app.command()(doctor)
app.command()(report)
app.command()(evaluate)
for command in (merge, methods, lineage, bake, extract):
    lora_app.command()(command)
app.add_typer(lora_app, name="lora")
app.command()(demo)


def main() -> None:
    """Entry point of the `acestep` command."""
    # Read once, when torch is loaded. Its threads spin while they wait for each other, by default for so long that one
    # other busy program makes a song of 30 s take 34 to 113 s; spinning this briefly it took 16, alone 3.6 as before.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    app()
