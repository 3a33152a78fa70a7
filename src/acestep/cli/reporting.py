"""How a command speaks: results on stdout, progress and problems on stderr, and the exit status.

For people a result is text; with `--json` it is exactly one JSON object on stdout, the error included, and whatever
else would print there goes to stderr. Exit status: 0 done, 1 a problem that the message explains, 2 the command was
called wrongly, 130 interrupted. Of several processes that a launcher started the first one alone speaks; the others say
only what nobody expected.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import IO, Any

import typer
from rich.console import Console, RenderableType
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Remaining

from acestep.errors import AceStepError

FAILED = 1
INTERRUPTED = 130


class Reporter:
    """What a command is given to speak with."""

    def __init__(self, *, as_json: bool, results: IO[str], problems: IO[str]) -> None:
        self.as_json = as_json
        self.console = Console(file=problems, highlight=False)
        self.on_interrupt = "interrupted; nothing half-written was left behind"
        """What Ctrl-C is answered with; a command that keeps something says so."""
        self._results = results

    def say(self, message: RenderableType) -> None:
        """A line about what goes on, on stderr. Text in it that came from outside must be escaped for rich."""
        self.console.print(message)

    def result(self, machine: dict[str, Any], *human: RenderableType) -> None:
        """The outcome: `machine` with --json, else `human`, on stdout."""
        if self.as_json:
            self._results.write(json.dumps(machine, ensure_ascii=False, allow_nan=False) + "\n")
            self._results.flush()
            return
        console = Console(file=self._results, highlight=False)
        for part in human:
            console.print(part)

    @contextlib.contextmanager
    def progress(self, description: str) -> Iterator[Callable[[int, int], None]]:
        """A bar with the time left, fed with (done, total); where stderr is no terminal, a line at the end instead."""
        started = time.monotonic()
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            Remaining(),
        )
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as bar:
            task = bar.add_task(escape(description), total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        self.say(f"{escape(description)} [dim]({time.monotonic() - started:.1f} s)[/dim]")


@contextlib.contextmanager
def reporting(*, as_json: bool, debug: bool) -> Iterator[Reporter]:
    """Run a command's body: its errors become one clear message and an exit status, never a traceback.

    With `debug`, errors are left to rise as they are.
    """
    results, problems = sys.stdout, sys.stderr
    with contextlib.ExitStack() as stack:
        if os.environ.get("RANK", "0") != "0":
            results = problems = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        reporter = Reporter(as_json=as_json, results=results, problems=problems)
        if as_json:
            # Libraries that print to stdout would break the promise of one JSON object.
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        stack.enter_context(_warnings_as_log(reporter.console))
        try:
            yield reporter
        except KeyboardInterrupt:
            _fail(reporter, "interrupted", reporter.on_interrupt)
            raise typer.Exit(INTERRUPTED) from None
        except AceStepError as error:
            if debug:
                raise
            _fail(reporter, type(error).__name__, str(error))
            raise typer.Exit(FAILED) from None
        except OSError as error:
            if debug:
                raise
            place = f": {error.filename}" if error.filename else ""
            _fail(reporter, "OSError", f"{error.strerror or error}{place}")
            raise typer.Exit(FAILED) from None
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except Exception as error:
            if debug:
                raise
            said = f"{type(error).__name__}: {error}".strip(": ")
            reporter.console.file = sys.stderr
            _fail(reporter, "unexpected", f"{said} (unexpected; run again with --debug for the traceback)")
            raise typer.Exit(FAILED) from None


def _fail(reporter: Reporter, kind: str, message: str) -> None:
    reporter.say(f"[bold red]error:[/bold red] {escape(message)}")
    if reporter.as_json:
        reporter.result({"error": {"kind": kind, "message": message}})


@contextlib.contextmanager
def _warnings_as_log(console: Console) -> Iterator[None]:
    """What acestep logs as a warning is for the user; other libraries' warnings are for developers, and stay quiet."""
    handler = RichHandler(console=console, show_time=False, show_path=False, level=logging.WARNING)
    logger = logging.getLogger("acestep")
    propagates = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates
