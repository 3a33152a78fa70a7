"""Options that several commands share, so that one name means one thing everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout, for programs; progress stays on stderr.")
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace what is at the output path already.")]
ModelOption = Annotated[
    str, typer.Option("--model", help="Base model: nano (built in), a checkpoint folder, or a hub id.")
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps ...; by default the best there is.")
]


def parse_seeds(text: str) -> tuple[int, ...]:
    """`1,2,3` to whole numbers; BadParameter for anything else, a repeated one included."""
    try:
        seeds = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} are not seeds; write whole numbers with commas, as in 1,2,3") from None
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise typer.BadParameter(f"{text!r} holds a negative or a repeated seed; write different numbers from 0 up")
    return seeds


def existing_text(path: Path) -> str:
    """The text of a file that an option names; BadParameter where there is none or it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{path} is not text in UTF-8; save it as UTF-8") from None
