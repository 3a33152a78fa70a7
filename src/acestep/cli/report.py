"""`acestep report`: a training run as a page with curves and players, or as figures for programs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from acestep.cli.options import DebugOption, JsonOption
from acestep.cli.reporting import reporting


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder: the output_dir of a training's config.")],
    out: Annotated[Path | None, typer.Option(help="The page's file; by default report.html in the run folder.")] = None,
    watch: Annotated[
        float | None,
        typer.Option(min=1, metavar="SECONDS", help="Write the page anew so often until the run is over."),
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a page about a training run: curves, events and the samples to listen to."""
    if watch is not None and as_json:
        raise typer.BadParameter("--watch writes a page again and again, --json prints one object; give one of them")
    with reporting(as_json=as_json, debug=debug) as reporter:
        from acestep.evaluation.run_report import run_figures, write_run_page
        from acestep.evaluation.run_report.summary import verdict
        from acestep.training.history import read_history

        reporter.on_interrupt = "interrupted; a page that was written before stays as it is"
        while True:
            history = read_history(run)
            figures = run_figures(history)
            page = write_run_page(history, figures, out, refresh_s=watch)
            if watch is None or figures.is_over:
                break
            reporter.say(f"[dim]step {figures.steps}: {escape(str(page))} is written[/dim]")
            time.sleep(watch)
        reporter.result(
            {"report": str(page), **figures.as_dict()},
            escape(verdict(figures)),
            f"The page: [bold]{escape(str(page))}[/bold]",
        )
