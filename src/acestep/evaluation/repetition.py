"""What was found of training tracks in songs: passages to listen to, how near they are, and how near chance comes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from acestep.evaluation.chance_level import ChanceLevel
from acestep.evaluation.uncertainty import Estimate

Grade = Literal["repeats", "resembles", "style"]
GRADES: tuple[Grade, ...] = ("repeats", "resembles", "style")
"""Nearer than chance explains; nearer than all unrelated passages that were measured, which may still be chance or a
faint copy, so worth hearing and no accusation; as near as the style makes any two pieces."""


@dataclass(frozen=True)
class Passage:
    """A stretch of a song, and what it is like in a track. change: how the track was changed for training, if it was;
    times are those of the recording itself.
    """

    track: str
    song_start_s: float
    song_end_s: float
    track_start_s: float
    track_end_s: float
    change: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {
            "track": self.track,
            "song_s": [round(self.song_start_s, 2), round(self.song_end_s, 2)],
            "track_s": [round(self.track_start_s, 2), round(self.track_end_s, 2)],
            "change": self.change,
        }


@dataclass(frozen=True)
class Nearest:
    """The nearest passage by one measure. value: nats for fingerprints, a correlation for latents; confirmed: nothing
    that the other measure says speaks against a copy, without which there is no accusation."""

    level: ChanceLevel
    value: float
    passage: Passage
    confirmed: bool = True

    @property
    def measure(self) -> str:
        return self.level.measure.name

    @property
    def grade(self) -> Grade:
        if self.value > self.level.threshold and self.confirmed:
            return "repeats"
        return "resembles" if self.value > self.level.noticeable else "style"

    def as_dict(self) -> dict[str, Any]:
        return {
            "measure": self.measure,
            "value": self.value,
            "chance": self.level.chance(self.value),
            "grade": self.grade,
            **self.passage.as_dict(),
        }


@dataclass(frozen=True)
class SongMemory:
    """The nearest training passage of one song by each measure that found any."""

    song: str
    nearest: tuple[Nearest, ...]

    @property
    def surest(self) -> Nearest | None:
        """What to listen to first, None where nothing was found."""
        by_threshold = sorted(self.nearest, key=lambda nearest: -nearest.value / nearest.level.threshold)
        return min(by_threshold, key=lambda nearest: GRADES.index(nearest.grade), default=None)

    @property
    def grade(self) -> Grade:
        return self.surest.grade if self.surest else "style"

    @property
    def alarm(self) -> Nearest | None:
        """What to listen to where the song repeats a passage; None where it does not."""
        return self.surest if self.grade == "repeats" else None

    def as_dict(self) -> dict[str, Any]:
        heard = self.surest if self.grade != "style" else None
        return {
            "song": self.song,
            "grade": self.grade,
            "listen": heard.passage.as_dict() if heard else None,
            "nearest": [nearest.as_dict() for nearest in self.nearest],
        }


@dataclass(frozen=True)
class Memorisation:
    """What was found. related: training tracks that are copies of each other; left_out: what could not be compared, and
    why."""

    songs: tuple[SongMemory, ...]
    levels: tuple[ChanceLevel, ...]
    tracks: int
    related: tuple[tuple[str, str], ...]
    left_out: tuple[tuple[str, str], ...]

    def graded(self, grade: Grade) -> tuple[SongMemory, ...]:
        return tuple(song for song in self.songs if song.grade == grade)

    @property
    def alarms(self) -> tuple[SongMemory, ...]:
        return self.graded("repeats")

    @property
    def share(self) -> Estimate:
        """The share of songs that repeat a track, with Wilson's interval (1927), as if songs were independent."""
        count, hits, z = len(self.songs), len(self.alarms), 1.959964
        middle = (hits + z * z / 2) / (count + z * z)
        half = z / (count + z * z) * math.sqrt(hits * (count - hits) / count + z * z / 4)
        return Estimate(hits / count, max(middle - half, 0.0), min(middle + half, 1.0), count)

    @property
    def verdict(self) -> str:
        if not self.levels:
            return "Memorisation was not measured."
        near = self.graded("resembles")
        hint = (
            f" {len(near)} {'comes' if len(near) == 1 else 'come'} nearer to one than unrelated passages do, which may"
            " be chance: listen."
            if near
            else ""
        )
        if not self.alarms:
            return f"None of {len(self.songs)} songs repeats one of {self.tracks} training tracks.{hint}"
        named = sorted({song.alarm.passage.track for song in self.alarms if song.alarm})
        more = f" and {len(named) - 3} more" if len(named) > 3 else ""
        verb = "repeats" if len(self.alarms) == 1 else "repeat"
        return (
            f"{len(self.alarms)} of {len(self.songs)} songs {verb} a passage of {', '.join(named[:3])}{more}: listen to"
            f" both.{hint}"
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON values; equal for equal songs and tracks."""
        return {
            "verdict": self.verdict,
            "share": self.share.as_dict(),
            "tracks": self.tracks,
            "thresholds": [level.as_dict() for level in self.levels],
            "songs": [song.as_dict() for song in self.songs],
            "related_tracks": [list(pair) for pair in self.related],
            "left_out": [{"measure": measure, "why": why} for measure, why in self.left_out],
        }
