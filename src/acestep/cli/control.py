"""`acestep control`: pause, go on with or cancel a training that runs elsewhere."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from acestep.cli.options import DebugOption, JsonOption
from acestep.cli.reporting import reporting

_SAID = {
    "pause": "It pauses after the batch at work, keeps a checkpoint, and holds its memory until it goes on.",
    "run": "It goes on.",
    "cancel": "It ends after the batch at work, keeps a checkpoint, and `--resume` can go on from it.",
}


class CommandName(StrEnum):
    pause = "pause"
    run = "run"
    cancel = "cancel"


def control(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The output_dir of the training.")],
    command: Annotated[CommandName, typer.Argument(help="What it is to do.")],
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Pause, go on with or cancel a training that runs elsewhere."""
    with reporting(as_json=as_json, debug=debug) as reporter:
        from acestep.errors import TrainingError
        from acestep.training.commands import command_run
        from acestep.training.run_folder import RunFolder

        command_run(folder, command.value)
        if not RunFolder(folder).is_in_use:
            raise TrainingError(f"no run goes on in {folder} now; `acestep train CONFIG.yaml --resume` goes on with it")
        reporter.result(
            {"folder": str(folder), "command": command.value},
            f"{escape(str(folder))}: {command.value}. {_SAID[command.value]}",
        )
