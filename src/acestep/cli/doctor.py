"""`acestep doctor`: what this machine has, what it can train, and what to do where it cannot."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from acestep.cli.options import DebugOption, JsonOption
from acestep.cli.reporting import FAILED, reporting

if TYPE_CHECKING:
    from acestep.training.planning.machine import Machine
    from acestep.training.planning.readiness import Check, Verdict

_MARKS = {"good": "[green]good[/green]", "fair": "[yellow]fair[/yellow]", "bad": "[red]bad[/red]"}


def doctor(
    output_dir: Annotated[
        Path, typer.Option("--output", metavar="FOLDER", help="Where runs are going to be written.")
    ] = Path("."),
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Say what this machine can train, and how. Loads no model and uses no network."""
    with reporting(as_json=as_json, debug=debug) as reporter:
        from acestep.training.planning.machine import look_at_machine
        from acestep.training.planning.readiness import check_machine, judge

        machine = look_at_machine(output_dir=output_dir)
        checks, verdicts = check_machine(machine), judge(machine)
        reporter.result(describe(machine, checks, verdicts), *tell(checks, verdicts))
        if not any(verdict.can_train for verdict in verdicts):
            raise typer.Exit(FAILED)


def describe(machine: Machine, checks: tuple[Check, ...], verdicts: tuple[Verdict, ...]) -> dict[str, Any]:
    """For programs."""
    return {
        "can_train": [verdict.base for verdict in verdicts if verdict.can_train],
        "machine": asdict(machine),
        "checks": [asdict(check) for check in checks],
        "verdicts": [asdict(verdict) for verdict in verdicts],
    }


def tell(checks: tuple[Check, ...], verdicts: tuple[Verdict, ...]) -> list[Table | str]:
    """For people."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for column in ("", "", ""):
        table.add_column(column, overflow="fold")
    for check in checks:
        advice = f"\n[dim]{escape(check.advice)}[/dim]" if check.advice else ""
        table.add_row(check.name, _MARKS[check.grade], escape(check.found) + advice)
    lines: list[Table | str] = [table, ""]
    for verdict in verdicts:
        can = "[green]can be trained[/green]" if verdict.can_train else "[red]cannot be trained[/red]"
        lines.append(f"[bold]{escape(verdict.base)}[/bold] {can}: {escape(verdict.how)}")
        if verdict.can_train and len(verdict.settings) > 1:
            said = "\n".join(f"    {key}: {_plain(value)}" for key, value in verdict.settings.items())
            lines.append(f"  in the config:\n{said}")
        lines.extend(f"  - {escape(line)}" for line in verdict.advice)
    return lines


def _plain(value: object) -> str:
    words = {True: "true", False: "false", None: "null"}
    return words[value] if value is None or isinstance(value, bool) else str(value)
