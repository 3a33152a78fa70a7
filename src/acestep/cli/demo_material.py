"""What the demo trains on: a synthesised style that nano does not know, or excerpts of the user's own recordings.

The user's files are read and never written; the demo works on short copies in its own folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from acestep.audio.files import write_audio
from acestep.audio.streaming import duration_s
from acestep.datasets.annotations import Annotation
from acestep.datasets.folder import read_dataset_folder
from acestep.datasets.synthesis import NOVEL_STYLES, make_track
from acestep.errors import AudioError, InputError
from acestep.evaluation.prompts import Prompt
from acestep.evaluation.recordings import find_recordings, read_start

SAMPLE_RATE = 44100
STYLE = next(iter(NOVEL_STYLES))
TRACKS = 28
TRACK_S = 30.0
MAX_RECORDINGS = 40
MIN_RECORDINGS = 4
EXCERPT_S = 30.0
MIN_RECORDING_S = 5.0
VARIATIONS = ("", "slow, calm", "fast, energetic", "90 bpm", "120 bpm", "instrumental")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Material:
    """A dataset folder, what its style is called, and what the user should know about how it was made.

    prompts: what to ask for, where the tracks' own prompts are all alike; empty where they differ.
    """

    folder: Path
    style: str
    tracks: int
    notes: tuple[str, ...]
    prompts: tuple[Prompt, ...] = ()


def synthesise(folder: Path, *, progress: Progress, tracks: int = TRACKS, seed: int = 0) -> Material:
    """Recordings of the style, made by rule, each with its true prompt and lyrics."""
    for index in range(tracks):
        track = make_track(STYLE, seed=seed + index, duration_s=TRACK_S)
        annotation = Annotation(track.prompt, track.lyrics, track.tags, float(track.bpm), track.key)
        _write_track(folder, f"track_{index + 1:03d}", track.audio, annotation)
        progress(index + 1, tracks)
    note = f"{tracks} recordings of {STYLE}, {TRACK_S:g} s each, synthesised; nano never heard this style."
    return Material(folder, STYLE, tracks, (note,))


def excerpt(source: Path, folder: Path, *, progress: Progress) -> Material:
    """Excerpts of up to 30 s from the middle of the user's recordings, with the prompts that they have.

    A recording without annotation gets the folder's name as its prompt. InputError where fewer than four are usable.
    """
    known = _annotations(source)
    files = list(known) or find_recordings(source)
    chosen = files[:: max(1, -(-len(files) // MAX_RECORDINGS))]
    style = style_name(source)
    notes = [f"{len(chosen)} of {len(files)} recordings in {source}, up to {EXCERPT_S:g} s from the middle of each."]
    problems: list[str] = []
    written = 0
    for done, path in enumerate(chosen, start=1):
        try:
            annotation, lyrics_lost = _for_excerpt(known.get(path), style, duration_s(path))
            _write_track(folder, f"track_{written + 1:03d}", _middle(path), annotation)
            written += 1
            if lyrics_lost:
                notes.append(f"{path.name}: only an excerpt is used, so its lyrics are left out.")
        except AudioError as error:
            problems.append(f"{path.name}: {error}")
        progress(done, len(chosen))
    if written < MIN_RECORDINGS:
        said = "; ".join(problems) or "there are no more"
        raise InputError(f"{source} has {written} usable recordings; expected at least {MIN_RECORDINGS} ({said})")
    if not known:
        notes.append(
            f'No annotations were found, so every recording has the prompt "{style}", after the folder. Prompts that '
            "tell tempo, key and instruments teach more: see docs/train.md."
        )
    notes += [f"Left out: {problem}" for problem in problems]
    prompts = () if known else tuple(Prompt(prompt=", ".join(filter(None, (style, v)))) for v in VARIATIONS)
    return Material(folder, style, written, tuple(notes), prompts)


def style_name(source: Path) -> str:
    """A folder's name as words: `My_Band-Demos` is `my band demos`."""
    words = re.sub(r"[\W_]+", " ", source.resolve().name, flags=re.UNICODE).strip().lower()
    return words or "my recordings"


def _annotations(source: Path) -> dict[Path, Annotation]:
    """By file, where the folder is a dataset folder that describes its tracks; else nothing."""
    described = (source / "annotations").is_dir() or (source / "metadata.csv").is_file()
    if not described or not (source / "audio").is_dir():
        return {}
    return {track.path: track.annotation for track in read_dataset_folder(source, skip_bad=True).tracks}


def _for_excerpt(annotation: Annotation | None, style: str, seconds: float) -> tuple[Annotation, bool]:
    """(what is true of the excerpt, whether lyrics had to go)"""
    if seconds < MIN_RECORDING_S:
        raise AudioError(f"it lasts {seconds:.1f} s; expected at least {MIN_RECORDING_S:g} s")
    if annotation is None:
        return Annotation(prompt=style), False
    if seconds > EXCERPT_S and annotation.lyrics:
        return Annotation(annotation.prompt, "", annotation.tags, annotation.bpm, annotation.key), True
    return annotation, False


def _middle(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    seconds = min(duration_s(path), 600.0)
    audio = read_start(path, SAMPLE_RATE, (seconds + EXCERPT_S) / 2)
    return audio[:, -int(EXCERPT_S * SAMPLE_RATE) :]


def _write_track(
    folder: Path, name: str, audio: np.ndarray[tuple[int, ...], np.dtype[np.float32]], annotation: Annotation
) -> None:
    for part in ("audio", "annotations"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    write_audio(folder / "audio" / f"{name}.flac", audio, SAMPLE_RATE)
    described = {
        "prompt": annotation.prompt,
        "lyrics": annotation.lyrics,
        "tags": list(annotation.tags),
        "bpm": annotation.bpm,
        "key": annotation.key,
    }
    text = json.dumps(described, indent=1, ensure_ascii=False) + "\n"
    (folder / "annotations" / f"{name}.json").write_text(text, encoding="utf-8")


def different(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """The first `count` prompts that differ."""
    return list(dict.fromkeys(prompts))[:count]
