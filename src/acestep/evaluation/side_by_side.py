"""The same prompts and seeds at several strengths of a LoRA, saved at equal loudness for comparing by ear.

Songs are measured, written and let go one at a time, so that a comparison of any length needs the memory of one song.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acestep.audio.files import write_audio
from acestep.audio.loudness import loudness_lufs
from acestep.audio.spectrogram import mel_picture
from acestep.evaluation.embedding import embed_windows
from acestep.evaluation.prompts import Prompt
from acestep.pipeline import ACEStepPipeline, GenerationResult

TARGET_LUFS = -20.0
"""Quiet enough that hardly any song has peaks which would not fit."""
PEAK_LIMIT = 0.89
SILENT_LUFS = -60.0
PICTURE = (640, 128)
CLIPPED_LEVEL = 0.999

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Take:
    """One song of a comparison, as it lies in the report's folder.

    audio, picture: paths relative to that folder; gain_db: what equal loudness took, of the song as the model made it;
    peak: the largest sample before the gain; recipe: what makes the song again; windows: its embedding.
    """

    strength: float
    audio: str
    picture: str
    duration_s: float
    loudness_lufs: float
    gain_db: float
    peak: float
    recipe: dict[str, Any]
    windows: NDArray[np.float64]

    @property
    def label(self) -> str:
        return "Base" if self.strength == 0 else f"LoRA × {self.strength:g}"

    @property
    def is_silent(self) -> bool:
        return self.loudness_lufs < SILENT_LUFS

    @property
    def is_clipped(self) -> bool:
        return self.peak >= CLIPPED_LEVEL


@dataclass(frozen=True)
class Comparison:
    """One prompt and seed, once at each strength; the base is strength 0."""

    prompt: Prompt
    seed: int
    takes: tuple[Take, ...]

    def at(self, strength: float) -> Take:
        return next(take for take in self.takes if take.strength == strength)


def generate_comparisons(
    pipeline: ACEStepPipeline,
    lora: str,
    prompts: Sequence[Prompt],
    *,
    seeds: Sequence[int],
    strengths: Sequence[float],
    duration_s: float,
    folder: Path,
    progress: Progress | None = None,
    **sampling: Any,
) -> list[Comparison]:
    """Make and save all songs: each prompt with each seed at each strength.

    lora: the name that `pipeline.load_lora` gave; strengths: 0 is the base; sampling: as the pipeline takes it.
    `progress` hears (songs done, songs), in fractions of no song.
    """
    (folder / "songs").mkdir(parents=True, exist_ok=True)
    total = len(prompts) * len(seeds) * len(strengths)
    done = 0
    comparisons = []
    for number, prompt, seed in _each(prompts, seeds):
        takes = []
        for strength in strengths:
            pipeline.set_lora_weights({lora: strength})
            result = pipeline(prompt.prompt, prompt.lyrics, duration=duration_s, seed=seed, **sampling)
            takes.append(_save_take(result, strength, folder, f"songs/prompt{number:02d}-seed{seed}-x{strength:g}"))
            done += 1
            if progress is not None:
                progress(done, total)
        comparisons.append(Comparison(prompt, seed, tuple(takes)))
    return comparisons


def equal_loudness_gain(audio: NDArray[np.float32], loudness: float) -> float:
    """The factor that brings a song to TARGET_LUFS, held where its peaks would clip; 1 for silence."""
    if loudness < SILENT_LUFS:
        return 1.0
    wanted = 10 ** ((TARGET_LUFS - loudness) / 20)
    peak = float(np.abs(audio).max(initial=0.0))
    return float(min(wanted, PEAK_LIMIT / max(peak, 1e-9)))


def _each(prompts: Sequence[Prompt], seeds: Sequence[int]) -> Iterator[tuple[int, Prompt, int]]:
    for number, prompt in enumerate(prompts, start=1):
        for seed in seeds:
            yield number, prompt, seed


def _save_take(result: GenerationResult, strength: float, folder: Path, stem: str) -> Take:
    audio = result.audio.numpy()
    windows = embed_windows(audio, result.sample_rate)
    loudness = loudness_lufs(audio, result.sample_rate)
    gain = equal_loudness_gain(audio, loudness)
    write_audio(folder / f"{stem}.flac", audio * np.float32(gain), result.sample_rate)
    (folder / f"{stem}.png").write_bytes(mel_picture(audio, result.sample_rate, width=PICTURE[0], height=PICTURE[1]))
    return Take(
        strength=strength,
        audio=f"{stem}.flac",
        picture=f"{stem}.png",
        duration_s=result.audio.shape[-1] / result.sample_rate,
        loudness_lufs=loudness,
        gain_db=float(20 * np.log10(gain)),
        peak=float(np.abs(audio).max(initial=0.0)),
        recipe=result.recipe,
        windows=windows,
    )
