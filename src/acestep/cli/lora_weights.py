"""`--lora PATH:WEIGHT` as users write it, sections and noise ranges, Windows drives and colons in names included."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from acestep.lora.schedule import Strength

MAX_WEIGHT = 10.0
FORM = "write PATH:WEIGHT, as in ./my_lora:0.8, or PATH:WEIGHT,WEIGHT@START-ENDs, as in ./choir:0.3,1@32-48s"

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_SPAN = r"(\d+\.?\d*|\.\d+)-(\d+\.?\d*|\.\d+)"
_SECTION = re.compile(rf"({_NUMBER})@{_SPAN}s")
_NOISE = re.compile(rf"x({_NUMBER})@{_SPAN}noise")

Span = tuple[float, float, float]


@dataclass(frozen=True)
class WeightedLora:
    """An adapter (folder, file, hub id or official name) and how strong it is heard; a weight of None is what its file
    recommends.

    sections: (start, end, weight) in seconds; noise_ranges: (high, low, factor) in noise levels.
    """

    path: str
    weight: float | None = None
    sections: tuple[Span, ...] = ()
    noise_ranges: tuple[Span, ...] = ()

    @property
    def changes(self) -> bool:
        """Whether the strength is other than the same everywhere."""
        return bool(self.sections or self.noise_ranges)

    def strength(self) -> float | Strength | None:
        """As the pipeline takes it."""
        from acestep.lora.schedule import NoiseRange, Section, Strength

        if not self.changes:
            return self.weight
        sections = tuple(Section(*part) for part in self.sections)
        return Strength(self.weight or 0.0, sections, tuple(NoiseRange(*span) for span in self.noise_ranges))


def parse_lora(text: str) -> WeightedLora:
    """Split at the last colon when strengths follow it: WEIGHT, WEIGHT@START-ENDs and xFACTOR@HIGH-LOWnoise, with
    commas between.

    With sections and no plain weight the adapter is silent outside of them. A path that exists as a whole is never
    split. BadParameter (exit status 2) for an empty path, and for strengths that are not numbers, not finite or larger
    than 10 either way.
    """
    path, colon, strengths = text.rpartition(":")
    if not colon or _exists(text) or _is_drive(path, strengths):
        path, strengths = text, ""
    if not path.strip():
        raise typer.BadParameter(f"{text!r} names no LoRA; {FORM}")
    if not colon or path == text:
        return WeightedLora(text)
    if not _may_be_strengths(strengths, path):
        return WeightedLora(text)
    return _with_strengths(text, path, strengths)


def _with_strengths(text: str, path: str, strengths: str) -> WeightedLora:
    weight: float | None = None
    sections: list[Span] = []
    noise_ranges: list[Span] = []
    for index, part in enumerate(re.split(r"\s*,\s*", strengths.strip())):
        if found := _SECTION.fullmatch(part):
            value, start, end = map(float, found.groups())
            if not start < end:
                raise typer.BadParameter(f"{part!r} in {text!r} ends before it starts; write WEIGHT@START-ENDs")
            sections.append((start, end, _bounded(value, path)))
        elif found := _NOISE.fullmatch(part):
            value, high, low = map(float, found.groups())
            if not low < high <= 1:
                raise typer.BadParameter(
                    f"{part!r} in {text!r} is no noise range; levels fall from 1 (noise) to 0, as in x0@1-0.7noise"
                )
            noise_ranges.append((high, low, _bounded(value, path)))
        elif "@" in part:
            raise typer.BadParameter(
                f"{part!r} in {text!r} is neither a section nor a noise range; write WEIGHT@START-ENDs, as in 1@32-48s,"
                " or xFACTOR@HIGH-LOWnoise, as in x0@1-0.7noise"
            )
        elif index or (number := _number(part)) is None:
            raise typer.BadParameter(f"{part!r} in {text!r} is not a number that comes first; {FORM}")
        else:
            weight = _bounded(number, path)
    if noise_ranges and weight is None and not sections:
        raise typer.BadParameter(f"{text!r} has a noise range and no weight that it changes; {FORM},x0@1-0.7noise")
    return WeightedLora(path, weight, tuple(sections), tuple(noise_ranges))


def _bounded(number: float, path: str) -> float:
    if not math.isfinite(number) or abs(number) > MAX_WEIGHT:
        raise typer.BadParameter(f"the weight of {path!r} is {number:g}; give {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}")
    return number


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # longer than a name can be
        return False


def _is_drive(before: str, after: str) -> bool:
    """`C:\\loras\\mine` and `C:/loras/mine`: the colon belongs to a drive letter."""
    return len(before) == 1 and before.isalpha() and after[:1] in ("\\", "/")


def _may_be_strengths(after: str, before: str) -> bool:
    """Text after a colon was meant as a strength when it looks like one, when the part before it is there, or when
    nothing follows at all.
    """
    first = re.split(r"[,@]", after, maxsplit=1)[0].strip()
    return not after.strip() or _number(first.removeprefix("x")) is not None or _exists(before)
