"""A finished synthetic track from a style and a seed, and folders of them."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from acestep.datasets.synthesis.captions import write_lines, write_lyrics, write_tags
from acestep.datasets.synthesis.composition import Section, compose, plan_sections
from acestep.datasets.synthesis.mixing import render
from acestep.datasets.synthesis.styles import NOVEL_STYLES, STYLES, Style
from acestep.datasets.synthesis.theory import PITCH_CLASSES, Key
from acestep.datasets.synthesis.timbres import SAMPLE_RATE
from acestep.datasets.synthesis.voice import syllables
from acestep.errors import InputError

SHORT_FORMS = (
    ("verse",), ("chorus",), ("inst",), ("verse", "chorus"), ("intro", "verse"), ("chorus", "outro"), ("intro",
    "chorus"),
    ("verse", "chorus", "outro"), ("inst", "bridge"), ("verse", "bridge", "chorus"),
)  # fmt: skip
LONG_FORMS = (
    ("intro", "verse", "chorus", "outro"), ("intro", "verse", "chorus", "verse", "chorus", "outro"), ("verse",
    "chorus", "bridge", "chorus"),
    ("intro", "verse", "chorus", "inst", "outro"), ("verse", "chorus", "inst", "chorus"), ("intro", "inst", "bridge",
    "inst", "outro"),
    ("intro", "verse", "chorus", "bridge", "chorus", "outro"),
)  # fmt: skip
LONG_TRACK_S = 45.0


@dataclass(frozen=True)
class TimedSection:
    """A section as it is heard: structure tag, start and end in seconds, sung lines."""

    tag: str
    start_s: float
    end_s: float
    lines: tuple[str, ...]


@dataclass(frozen=True)
class SynthTrack:
    """audio: (2, samples) float32 at 44.1 kHz; everything else describes what is in it."""

    audio: NDArray[np.float32]
    prompt: str
    lyrics: str
    tags: tuple[str, ...]
    bpm: int
    key: str
    sections: tuple[TimedSection, ...]
    style: str
    mood: str


def make_track(style: str, *, seed: int, duration_s: float, form: Sequence[str] | None = None) -> SynthTrack:
    """Compose and render one track; the same style, seed and duration give the same samples.

    The first downbeat is at 0 s. `form` fixes the section tags, otherwise they are drawn to suit the duration.
    """
    known = {**STYLES, **NOVEL_STYLES}
    if style not in known:
        raise InputError(f"style {style!r} is not known; expected one of {', '.join(known)}")
    chosen = known[style]
    rng = np.random.default_rng([seed, sum(ord(letter) * 31**index for index, letter in enumerate(style)) % 2**31])
    return compose_track(chosen, rng, duration_s=duration_s, form=form)


def compose_track(
    style: Style, rng: np.random.Generator, *, duration_s: float, form: Sequence[str] | None = None
) -> SynthTrack:
    """As make_track, with a style of one's own and the random generator given."""
    bpm = int(rng.integers(style.tempo[0], style.tempo[1] + 1))
    key = Key(int(rng.integers(len(PITCH_CLASSES))), "minor" if rng.random() < style.minor else "major")
    steps = len(style.drums[0][0].pattern)
    step_s = 60.0 / bpm / 4
    bars = max(1, int(np.ceil(duration_s / (steps * step_s))))
    forms = LONG_FORMS if duration_s >= LONG_TRACK_S else SHORT_FORMS
    tags = tuple(form) if form else forms[int(rng.integers(len(forms)))]
    sings = rng.random() < style.vocals
    sections = [
        replace(section, lines=write_lines(max(1, section.bars // 2), rng))
        if sings and section.tag in ("verse", "chorus")
        else section
        for section in plan_sections(tags, bars)
    ]
    high_voice = bool(rng.random() < 0.5)
    instruments = {
        part: str(rng.choice(choices))
        for part, choices in (
            ("bass", style.bass),
            ("chords", style.chords),
            ("lead", style.lead),
            ("extra", style.extra),
        )
        if choices
    }
    score = compose(
        style, key, sections, rng, sung=[[syllables(line) for line in section.lines] for section in sections]
    )
    audio = render(style, score, instruments, step_s=step_s, duration_s=duration_s, high_voice=high_voice, rng=rng)
    heard = [
        instruments[part] for part in ("chords", "lead", "extra", "bass") if part in score.parts and part in instruments
    ]
    voice = ("female vocal" if high_voice else "male vocal") if "voice" in score.parts else None
    words = write_tags(style, key, bpm, heard, voice, rng)
    return SynthTrack(
        audio=audio, prompt=", ".join(words), lyrics=write_lyrics(sections), tags=words, bpm=bpm, key=str(key),
        sections=tuple(_timed(section, steps * step_s, duration_s) for section in sections), style=style.name,
        mood=next((word for word in words if word in style.moods), style.moods[0]),
    )  # fmt: skip


def write_dataset(folder: Path, style: str, tracks: int, *, seed: int = 0, duration_s: float = 30.0) -> list[Path]:
    """Write a training folder of synthetic recordings: audio/, annotations/ and metadata.csv. -> the audio files"""
    audio_folder, annotation_folder = folder / "audio", folder / "annotations"
    audio_folder.mkdir(parents=True, exist_ok=True)
    annotation_folder.mkdir(exist_ok=True)
    files, rows = [], []
    for index in range(tracks):
        track = make_track(style, seed=seed + index, duration_s=duration_s)
        name = f"track_{index + 1:03d}"
        path = audio_folder / f"{name}.wav"
        soundfile.write(path, track.audio.T, SAMPLE_RATE, subtype="PCM_16")
        annotation = {
            "prompt": track.prompt,
            "lyrics": track.lyrics,
            "tags": list(track.tags),
            "bpm": track.bpm,
            "key": track.key,
        }
        (annotation_folder / f"{name}.json").write_text(json.dumps(annotation, indent=1) + "\n", encoding="utf-8")
        rows.append((path.name, track.prompt, f"{duration_s:.2f}", track.style, track.mood))
        files.append(path)
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as table:
        writer = csv.writer(table)
        writer.writerow(("filename", "prompt", "duration", "genre", "mood"))
        writer.writerows(rows)
    return files


def _timed(section: Section, bar_s: float, duration_s: float) -> TimedSection:
    end_s = min(duration_s, (section.bar + section.bars) * bar_s)
    return TimedSection(section.tag, section.bar * bar_s, end_s, section.lines)
