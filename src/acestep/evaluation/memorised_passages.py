"""Memorisation as a finding: songs that repeat a training track, with both passages cut out to be heard.

Of training tracks only the passages that are worth hearing are copied into the evaluation's folder, at the songs'
loudness.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acestep.audio.files import write_audio
from acestep.audio.loudness import loudness_lufs
from acestep.audio.streaming import stream_recording
from acestep.datasets.folder import read_dataset_folder
from acestep.errors import AceStepError
from acestep.evaluation.evaluation import Listener, Progress
from acestep.evaluation.findings import Finding, Pair
from acestep.evaluation.findings import Passage as Heard
from acestep.evaluation.memorisation import Song, describe_song, find_memorised
from acestep.evaluation.recordings import DatasetParts
from acestep.evaluation.repetition import GRADES, Memorisation, SongMemory
from acestep.evaluation.side_by_side import Comparison, Take, equal_loudness_gain
from acestep.pipeline import ACEStepPipeline, GenerationResult

MAX_PAIRS = 12
"""Of passages to listen to; more of them tell nothing new."""

Found = Sequence[Finding | tuple[str, str]]


class MemorisationListener(Listener):
    """The nearest training passage of every song; the base's songs, which cannot know the tracks, measure chance."""

    title = "Search for memorised passages"

    def __init__(self, folder: Path, parts: DatasetParts | None) -> None:
        self.folder, self.parts = folder, parts
        self._songs: list[Song] = []
        self._unrelated: list[Song] = []
        self._takes: dict[str, Take] = {}

    def hear(self, comparison: Comparison, take: Take, song: GenerationResult) -> None:
        if self.parts is None or take.is_silent:
            return
        name = Path(take.audio).stem
        latents = None if take.latents is None else take.latents[0]
        described = describe_song(name, song.audio.numpy(), song.sample_rate, latents=latents)
        self._takes[name] = take
        (self._songs if take.strength else self._unrelated).append(described)

    def finish(
        self, pipeline: ACEStepPipeline, lora: str, comparisons: Sequence[Comparison], progress: Progress
    ) -> Found:
        if self.parts is None:
            return [("memorisation", "it needs the dataset that the LoRA was trained on")]
        if not self._songs:
            return [("memorisation", "there is no song to search for")]
        try:
            found = find_memorised(
                self._songs,
                self.parts.training,
                latent_rate=pipeline.family.latent_rate,
                recordings=self.parts.folder,
                unrelated=self._unrelated,
                progress=progress,
            )
        except AceStepError as error:
            return [("memorisation", str(error))]
        # Strengths of one song repeat each other; the surest come first, then what is only worth hearing.
        by_surety = sorted(found.songs, key=_surety, reverse=True)
        worth_hearing = [song for song in by_surety if song.grade != "style"]
        pairs = list(self._pairs(worth_hearing[:MAX_PAIRS], pipeline.family.sample_rate))
        rows = [_row(song) for song in by_surety]
        finding = Finding(
            "memorisation",
            "Memorisation",
            found.verdict,
            alarm=bool(found.alarms),
            columns=(
                "Song",
                "Nearest training track",
                "In the song",
                "In the track",
                "By",
                "Near",
                "Threshold",
                "Reads as",
            ),
            rows=[row for row in rows if row],
            pairs=pairs,
            details=_details(found),
        )
        return [finding, *found.left_out]

    def _pairs(self, memories: Sequence[SongMemory], sample_rate: int) -> Iterator[Pair]:
        assert self.parts is not None
        paths = {track.name: track.path for track in read_dataset_folder(self.parts.folder, skip_bad=True).tracks}
        for number, memory in enumerate(memories, start=1):
            assert memory.surest is not None
            where, take = memory.surest.passage, self._takes[memory.song]
            audio = f"passages/track{number:02d}.flac"
            try:
                heard = read_stretch(paths[where.track], sample_rate, where.track_start_s, where.track_end_s)
                (self.folder / "passages").mkdir(exist_ok=True)
                gain = equal_loudness_gain(heard, loudness_lufs(heard, sample_rate))
                write_audio(self.folder / audio, heard * np.float32(gain), sample_rate)
            except (AceStepError, KeyError):  # the alarm stands without its passage
                continue
            changed = f", which training heard {where.change}" if where.change else ""
            yield Pair(
                f"{take.label}, {memory.song}, {memory.grade} {where.track}{changed}",
                Heard(f"Song {memory.song}", take.audio, where.song_start_s, where.song_end_s),
                Heard(
                    f"{where.track} from {where.track_start_s:.1f} s",
                    audio,
                    0.0,
                    where.track_end_s - where.track_start_s,
                ),
            )


def read_stretch(path: Path, sample_rate: int, start_s: float, end_s: float) -> NDArray[np.float32]:
    """Part of a recording, (2, samples); blocks before it are read and let go. AudioError names no file."""
    start, end = int(max(start_s, 0.0) * sample_rate), int(end_s * sample_rate)
    kept, position = [], 0
    for block in stream_recording(path, sample_rate):
        kept.append(block[:, max(start - position, 0) : max(end - position, 0)])
        position += block.shape[1]
        if position >= end:
            break
    return np.concatenate(kept, axis=1)


def _surety(memory: SongMemory) -> tuple[int, float]:
    near = memory.surest
    return (-len(GRADES), 0.0) if near is None else (-GRADES.index(near.grade), near.value / near.level.threshold)


def _row(memory: SongMemory) -> tuple[str, ...]:
    near = memory.surest
    if near is None:
        return ()
    where = near.passage
    return (
        memory.song,
        where.track,
        f"{where.song_start_s:.1f} to {where.song_end_s:.1f} s",
        f"{where.track_start_s:.1f} to {where.track_end_s:.1f} s",
        near.measure,
        f"{near.value:.2f}",
        f"{near.level.threshold:.2f}",
        "of the style" if near.grade == "style" else near.grade,
    )


def _details(found: Memorisation) -> dict[str, Any]:
    """All of what is worth hearing, and of the other songs how near they came: a report card stays small."""
    told = found.as_dict()
    told["songs"] = [song for song in told["songs"] if song["grade"] != "style"]
    told["nearest"] = {song.song: {near.measure: near.value for near in song.nearest} for song in found.songs}
    return told
