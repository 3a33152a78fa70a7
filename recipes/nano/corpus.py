"""The training music: which tracks there are, and rendering them to log-mels (and, for the codec, audio) on disk.

Track i of a corpus is a pure function of (corpus, i), so a stopped run goes on where it was.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from acestep.datasets.synthesis import NOVEL_STYLES, STYLES, Style, SynthTrack, compose_track
from recipes.nano.features import FRAMES_PER_LATENT, HOP, log_mel

# The codec hears shuffled instruments and drum kits too, so that it does not only know fourteen line-ups. What
# belongs to
# the styles that nano must not know is left out of the shuffle.
MIXED_SHARE = 0.25
_SEEDS = {"codec": 1, "songs": 2, "heldout": 3}


@dataclass(frozen=True)
class TrackPlan:
    """One track to be made."""

    corpus: str
    index: int
    style: str
    duration_s: float
    keep_audio: bool


def plan_track(corpus: str, index: int) -> TrackPlan:
    """codec: 12 s, a quarter of them mixed. songs and heldout: three in four 24 to 32 s, the rest 60 s."""
    rng = np.random.default_rng([_SEEDS[corpus], index])
    style = list(STYLES)[index % len(STYLES)]
    if corpus == "codec":
        return TrackPlan(corpus, index, "mixed" if rng.random() < MIXED_SHARE else style, 12.0, True)
    long = (index // len(STYLES)) % 4 == 3
    return TrackPlan(corpus, index, style, 60.0 if long else float(rng.choice((24.0, 28.0, 32.0))), corpus == "heldout")


def make(plan: TrackPlan) -> SynthTrack:
    """Compose and render one planned track."""
    rng = np.random.default_rng([_SEEDS[plan.corpus], plan.index, 1])
    style = mixed_style(rng) if plan.style == "mixed" else STYLES[plan.style]
    return compose_track(style, rng, duration_s=plan.duration_s)


def mixed_style(rng: np.random.Generator) -> Style:
    """One style's groove played by the instruments of others."""
    styles = list(STYLES.values())
    pick = lambda: styles[int(rng.integers(len(styles)))]  # noqa: E731
    low, high = sorted(rng.integers(62, 180, size=2))
    return replace(
        pick(), name="mixed", tempo=(int(low), int(high) + 1), bass=pick().bass, chords=pick().chords, lead=pick().lead,
        extra=pick().extra or ("pluck",), extra_patterns=("0.1.2.3.2.1.0.1.",), drums=pick().drums, vocals=0.4,
        reverb=float(rng.uniform(0, 0.4)), hiss=float(rng.choice((0, 0, 0.01))), pumping=float(rng.choice((0, 0.5))),
    )  # fmt: skip


def render_corpus(folder: Path, corpus: str, count: int, *, workers: int) -> None:
    """Make the tracks that are not there yet.

    Each is NNNNN.mel.npy in float16, NNNNN.json and, where its plan keeps the audio, NNNNN.audio.npy in int16.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [
        plan for plan in (plan_track(corpus, i) for i in range(count)) if not _files(folder, plan.index)[1].exists()
    ]
    with multiprocessing.get_context("spawn").Pool(workers, initializer=_one_thread) as pool:
        for done, _ in enumerate(
            pool.imap_unordered(_render_one, [(folder, plan) for plan in missing], chunksize=4), 1
        ):
            if done % 100 == 0 or done == len(missing):
                print(f"{corpus}: {count - len(missing) + done}/{count} tracks", flush=True)


def read_notes(folder: Path) -> Iterator[tuple[Path, dict]]:
    """(log-mel file, what is known about the track) of every finished track, in order."""
    for notes in sorted(folder.glob("*.json")):
        yield notes.with_suffix(".mel.npy"), json.loads(notes.read_text())


def _one_thread() -> None:
    torch.set_num_threads(1)
    os.nice(5)


def _files(folder: Path, index: int) -> tuple[Path, Path, Path]:
    return folder / f"{index:05d}.mel.npy", folder / f"{index:05d}.json", folder / f"{index:05d}.audio.npy"


def _render_one(task: tuple[Path, TrackPlan]) -> None:
    folder, plan = task
    assert plan.style not in NOVEL_STYLES
    track = make(plan)
    mel_file, notes_file, audio_file = _files(folder, plan.index)
    audio = track.audio[:, : track.audio.shape[1] // (HOP * FRAMES_PER_LATENT) * HOP * FRAMES_PER_LATENT]
    np.save(mel_file, log_mel(torch.from_numpy(audio.copy())).numpy().astype(np.float16))
    if plan.keep_audio:
        np.save(audio_file, np.round(audio * 32767).astype(np.int16))
    notes = {name: value for name, value in asdict(track).items() if name != "audio"}
    partial = notes_file.with_suffix(".partial")
    partial.write_text(json.dumps(notes))
    partial.replace(notes_file)
