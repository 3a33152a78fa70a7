"""What happened in a run, for people: each event with its step, a title, what it says and what it advises."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import PurePath
from typing import Any, Literal

import numpy as np

from acestep.training.history import Event, RunHistory, StepColumns

Tone = Literal["good", "bad", "plain", "checkpoint"]

_TONES: Mapping[str, Tone] = {
    "checkpoint": "checkpoint",
    "finished": "good",
    "failed": "bad",
    "interrupted": "bad",
    "out of memory": "bad",
    "diagnosis": "bad",
}
# Where the words are, in the order in which they are looked for; the rest of an event is shown as it is.
_TEXT = ("message", "finding", "text", "what", "error", "reason", "answer")
_ADVICE = ("advice", "suggestion", "try")
# Told elsewhere on the page, or of no use to a reader.
_HIDDEN = {"step", "steps", "folder", "total_steps", "epochs", "training_tracks", "held_out_tracks", "trainable"}
_HIDDEN |= {"warnings", "best_step", "seconds", "path", "epoch", "subject", "evidence"}
_NAMES = {"data": "data trouble"}
_STEP_OF_CHECKPOINT = re.compile(r"-step-(\d+)$")
_EPOCH_OF_CHECKPOINT = re.compile(r"^epoch-(\d+)$")


@dataclass(frozen=True)
class Happening:
    """An event in words. step: None where it cannot be placed; count: how many like it came in a row until `until`."""

    title: str
    text: str
    advice: str
    tone: Tone
    step: int | None
    time: datetime | None
    count: int = 1
    until: int | None = None


def happenings(history: RunHistory) -> list[Happening]:
    """All events in the order in which they were written, each placed on the axis of steps."""
    placed = _placed(history)
    return [_told(event, step) for event, step in zip(history.events, placed, strict=True)]


def gathered(told: Sequence[Happening]) -> list[Happening]:
    """The same with runs of like events made one, because a diagnosis may come after each of a hundred looks."""
    groups: list[Happening] = []
    newest: dict[tuple[str, Tone], int] = {}
    for one in told:
        key = (one.title, one.tone)
        if key in newest and (one.tone == "checkpoint" or newest[key] == len(groups) - 1):
            before = groups[newest[key]]
            text = f"The newest is {one.text}." if one.tone == "checkpoint" else one.text
            groups[newest[key]] = replace(
                one, text=text, step=before.step, time=before.time, count=before.count + 1, until=one.step
            )
            continue
        if one.title in ("Started", "Resumed"):
            newest.clear()
        newest[key] = len(groups)
        groups.append(one)
    return groups


def _told(event: Event, step: int | None) -> Happening:
    details = dict(event.details)
    subject = details.pop("kind", None) or details.pop("name", None) if event.kind == "diagnosis" else None
    title = _sentence(_NAMES.get(str(subject), str(subject or event.kind)))
    text = _first(details, _TEXT)
    advice = _first(details, _ADVICE)
    rest = [f"{name.replace('_', ' ')}: {_plain(value)}" for name, value in details.items() if name not in _HIDDEN]
    if event.kind == "checkpoint":
        text = str(event.details.get("path", text))
    tone = _TONES.get(event.kind, "plain")
    return Happening(title, "; ".join(part for part in (text, *rest) if part), advice, tone, step, event.time)


def _first(details: dict[str, Any], names: Sequence[str]) -> str:
    for name in names:
        if isinstance(details.get(name), str) and details[name].strip():
            return str(details.pop(name))
        if isinstance(details.get(name), list):
            return " ".join(map(str, details.pop(name)))
    return ""


def _plain(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _sentence(words: str) -> str:
    words = words.replace("_", " ")
    return words[:1].upper() + words[1:]


def _placed(history: RunHistory) -> Iterator[int | None]:
    """The step of each event: what it says itself, or else by the clock from the last one that said it."""
    steps = history.steps
    clock = np.concatenate([[0.0], np.cumsum(np.nan_to_num(steps.seconds))])
    known: tuple[datetime | None, int] = (None, 0)
    for event in history.events:
        step = _own_step(event, history)
        if step is None and event.time is not None and known[0] is not None:
            step = _by_clock(steps, clock, known[1], (event.time - known[0]).total_seconds())
        elif step is not None:
            known = (event.time or known[0], step)
        yield step


def _own_step(event: Event, history: RunHistory) -> int | None:
    for name in ("step", "steps"):
        value = event.details.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    if event.kind == "checkpoint":
        name = PurePath(str(event.details.get("path", ""))).name
        if found := _STEP_OF_CHECKPOINT.search(name):
            return int(found[1])
        if found := _EPOCH_OF_CHECKPOINT.match(name):
            done = history.steps.step[history.steps.epoch <= int(found[1])]
            return int(done[-1]) if len(done) else 0
    return None


def _by_clock(steps: StepColumns, clock: np.ndarray[Any, Any], known: int, passed_s: float) -> int | None:
    if not len(steps):
        return None
    first = int(np.searchsorted(steps.step, known, side="right"))
    row = int(np.searchsorted(clock, clock[first] + passed_s, side="right")) - 1
    return known if row <= first else int(steps.step[min(row, len(steps)) - 1])
