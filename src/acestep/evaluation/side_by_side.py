"""The same prompts and seeds at several strengths of a LoRA, saved at equal loudness for comparing by ear.

Songs are measured, written and let go one at a time, so that a comparison of any length needs the memory of one song;
their latents, a hundredth of their size, are kept. The base's songs may come from a cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from acestep.audio.files import write_audio
from acestep.audio.loudness import loudness_lufs
from acestep.audio.spectrogram import mel_picture
from acestep.evaluation.embedding import DIMENSIONS, embed_windows
from acestep.evaluation.prompts import Prompt
from acestep.evaluation.song_cache import SongCache, base_song
from acestep.pipeline import ACEStepPipeline, GenerationResult

TARGET_LUFS = -20.0
"""Quiet enough that hardly any song has peaks which would not fit."""
PEAK_LIMIT = 0.89
SILENT_LUFS = -60.0
PICTURE = (640, 128)
CLIPPED_LEVEL = 0.999

Progress = Callable[[int, int], None]
Hear = Callable[["Comparison", "Take", GenerationResult], None]
"""Is given each song while its audio is in memory, with the takes of its prompt and seed that came before it."""


@dataclass(frozen=True)
class Take:
    """One song of a comparison, as it lies in the report's folder.

    audio, picture: paths relative to that folder, "" for a broken song; gain_db: what equal loudness took, of the song
    as the model made it; peak: the largest sample before the gain; recipe: what makes the song again; windows: its
    embedding; latents: what its audio was decoded from, (1, 8, 16, frames) float32; is_broken: it holds NaN or
    infinity.
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
    latents: Tensor | None = field(default=None, repr=False)
    is_broken: bool = False

    @property
    def label(self) -> str:
        return "Base" if self.strength == 0 else f"LoRA × {self.strength:g}"

    @property
    def is_silent(self) -> bool:
        return not self.is_broken and self.loudness_lufs < SILENT_LUFS

    @property
    def is_clipped(self) -> bool:
        return self.peak >= CLIPPED_LEVEL

    @property
    def flaws(self) -> tuple[str, ...]:
        """What can be told from the song alone."""
        found = {"broken": self.is_broken, "silent": self.is_silent, "clipped": self.is_clipped}
        return tuple(name for name, is_there in found.items() if is_there)


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
    identity: Mapping[str, Any] | None = None,
    cache: SongCache | None = None,
    hear: Hear | None = None,
    progress: Progress | None = None,
    **sampling: Any,
) -> list[Comparison]:
    """Make and save all songs: each prompt with each seed at each strength.

    lora: the name that `pipeline.load_lora` gave; strengths: 0 is the base, whose songs `cache` keeps under `identity`
    (`song_cache.base_identity`); sampling: as the pipeline takes it. `progress` hears (songs done, songs), in fractions
    of no song. A song of NaN is marked as broken and has no files.
    """
    (folder / "songs").mkdir(parents=True, exist_ok=True)
    total = len(prompts) * len(seeds) * len(strengths)
    done = 0
    comparisons = []
    for number, prompt, seed in _each(prompts, seeds):
        comparison = Comparison(prompt, seed, ())
        for strength in strengths:
            pipeline.set_lora_weights({lora: strength})
            asked = {"prompt": prompt.prompt, "lyrics": prompt.lyrics, "duration": duration_s, "seed": seed, **sampling}
            if strength == 0:
                result = base_song(pipeline, identity or {}, cache if identity else None, **asked)
            else:
                result = pipeline(**asked)
            take = _save_take(result, strength, folder, f"songs/prompt{number:02d}-seed{seed}-x{strength:g}")
            if hear is not None and not take.is_broken:
                hear(comparison, take, result)
            comparison = Comparison(prompt, seed, (*comparison.takes, take))
            done += 1
            if progress is not None:
                progress(done, total)
        comparisons.append(comparison)
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
    if not np.isfinite(audio).all():
        return _broken_take(result, strength)
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
        latents=result.latents,
    )


def _broken_take(result: GenerationResult, strength: float) -> Take:
    return Take(
        strength=strength,
        audio="",
        picture="",
        duration_s=result.audio.shape[-1] / result.sample_rate,
        loudness_lufs=float("-inf"),
        gain_db=0.0,
        peak=0.0,
        recipe=result.recipe,
        windows=np.empty((0, DIMENSIONS)),
        is_broken=True,
    )
