"""Options that several commands share, so that one name means one thing everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout, for programs; progress stays on stderr.")
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace what is at the output path already.")]
ModelOption = Annotated[
    str, typer.Option("--model", help="Base model: nano (built in), a checkpoint folder, or a hub id.")
]


def usable_device(name: str | None) -> str | None:
    """The device's name, if this machine has it; BadParameter for another."""
    if name is None:
        return None
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        said = str(error).partition("\n")[0]
        raise typer.BadParameter(f"{name!r} cannot be used here ({said}); `acestep doctor` says what can") from None
    return name


DeviceOption = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda, cuda:1, mps ...; by default the best there is.", callback=usable_device),
]
QuantizeOption = Annotated[
    Literal["int8", "nf4"] | None,
    typer.Option("--quantize", help="Keep the base model's weights in int8 (half of 16 bits) or nf4 (a quarter)."),
]
RawScaleOption = Annotated[
    bool,
    typer.Option("--raw-scale", help="Play the factors of LoRAs as they lie, as the official v1 program does."),
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
