"""What a measure found, in a form that the page, the terminal and the report card show without knowing the measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Passage:
    """A stretch of audio to listen to. audio: relative to the evaluation's folder."""

    label: str
    audio: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Pair:
    """Two passages that are to be compared by ear, and why."""

    what: str
    first: Passage
    second: Passage


@dataclass(frozen=True)
class Finding:
    """One measure's answer.

    says: in a sentence or two; alarm: it must not be overlooked; rows: a table under `columns`; details: JSON values
    for the report card.
    """

    key: str
    title: str
    says: str
    alarm: bool = False
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    pairs: Sequence[Pair] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {"key": self.key, "title": self.title, "says": self.says, "alarm": self.alarm, "details": self.details}
