"""`--lora PATH:WEIGHT` as users write it, Windows drives, colons in names and hub ids included."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import typer

DEFAULT_WEIGHT = 1.0
MAX_WEIGHT = 10.0


@dataclass(frozen=True)
class WeightedLora:
    """An adapter (folder, file or hub id) and the strength that it is heard with."""

    path: str
    weight: float


def parse_lora(text: str) -> WeightedLora:
    """Split at the last colon when a number follows it; without one the weight is 1.

    A path that exists as a whole is never split. BadParameter (exit status 2) for an empty path, a weight that is not a
    number, is not finite or is larger than 10 either way.
    """
    path, colon, weight_text = text.rpartition(":")
    if not colon or Path(text).exists() or _is_drive(path, weight_text):
        path, weight_text = text, str(DEFAULT_WEIGHT)
    if not path.strip():
        raise typer.BadParameter(f"{text!r} names no LoRA; write PATH or PATH:WEIGHT, as in ./my_lora:0.8")
    try:
        weight = float(weight_text)
    except ValueError:
        if not _may_be_weight(weight_text, path):
            return WeightedLora(text, DEFAULT_WEIGHT)
        raise typer.BadParameter(
            f"the weight {weight_text!r} in {text!r} is not a number; write PATH:WEIGHT, as in ./my_lora:0.8"
        ) from None
    if not math.isfinite(weight) or abs(weight) > MAX_WEIGHT:
        raise typer.BadParameter(f"the weight of {path!r} is {weight:g}; give {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}")
    return WeightedLora(path, weight)


def _is_drive(before: str, after: str) -> bool:
    """`C:\\loras\\mine` and `C:/loras/mine`: the colon belongs to a drive letter."""
    return len(before) == 1 and before.isalpha() and after[:1] in ("\\", "/")


def _may_be_weight(after: str, before: str) -> bool:
    """Text after a colon was meant as a weight when the part before it is there, or when nothing follows at all."""
    return not after.strip() or Path(before).exists()
