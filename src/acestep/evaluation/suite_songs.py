"""Songs of the prompt suite: played, heard one at a time so that none has to be kept, and what broke on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from acestep.audio.loudness import loudness_lufs
from acestep.errors import AceStepError, InputError
from acestep.evaluation.adherence import Heard, hear
from acestep.evaluation.embedding import embed_windows
from acestep.evaluation.prompts import Prompt
from acestep.evaluation.side_by_side import CLIPPED_LEVEL, SILENT_LUFS
from acestep.evaluation.song_cache import SongCache, base_song
from acestep.evaluation.suite import EdgePrompt
from acestep.pipeline import ACEStepPipeline, GenerationResult
from acestep.pipeline.settings import MIN_DURATION_S

Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]

SONG, SILENT, CLIPPED, NOT_FINITE, REFUSED, FAILED = "song", "silent", "clipped", "not finite", "refused", "failed"
FLAWS = (SILENT, CLIPPED, NOT_FINITE, FAILED)
"""What no song should be; a refusal may be right."""

_FRAME = 4096
_THIRDS_HZ = 250 * 2 ** (np.arange(16) / 3)
"""Edges of the bands that brightness is fitted to, up to 8 kHz."""


@dataclass(frozen=True)
class SuiteSong:
    """One song as it was heard; only what is asked for again is kept of it.

    outcome: "song", or what is wrong with it; said: the error where there is no song; windows: see
    `embedding.embed_windows`, None where there is nothing to hear; brightness_db: slope of its spectrum an octave;
    latents: (1, 8, 16, frames), where they were to be kept.
    """

    prompt: Prompt
    seed: int
    outcome: str
    windows: Floats | None = None
    loudness_lufs: float = float("-inf")
    brightness_db: float = 0.0
    heard: Heard = field(default_factory=lambda: Heard(None, None))
    said: str = ""
    latents: Tensor | None = None

    @property
    def has_flaw(self) -> bool:
        return self.outcome in FLAWS


def hear_song(
    audio: NDArray[np.floating], sample_rate: int, prompt: Prompt, seed: int, *, latents: Tensor | None = None
) -> SuiteSong:
    """audio: (channels, samples); NaN and silence are outcomes, not errors."""
    if not np.isfinite(audio).all():
        return SuiteSong(prompt, seed, NOT_FINITE)
    loudness = loudness_lufs(np.asarray(audio, dtype=np.float32), sample_rate)
    if loudness < SILENT_LUFS:
        return SuiteSong(prompt, seed, SILENT, loudness_lufs=loudness)
    clipped = float(np.abs(audio).max(initial=0.0)) >= CLIPPED_LEVEL
    return SuiteSong(
        prompt,
        seed,
        CLIPPED if clipped else SONG,
        embed_windows(audio, sample_rate),
        loudness,
        spectral_slope_db(audio, sample_rate),
        hear(audio, sample_rate),
        latents=latents,
    )


def spectral_slope_db(audio: NDArray[np.floating], sample_rate: int) -> float:
    """How the spectrum rises or falls an octave between 250 Hz and 8 kHz, in dB. audio: (channels, samples), a second
    or more."""
    mono = np.asarray(audio, dtype=np.float64).mean(0)
    frames = mono[: len(mono) // _FRAME * _FRAME].reshape(-1, _FRAME)
    power = (np.abs(np.fft.rfft(frames * np.hanning(_FRAME), axis=1)) ** 2).mean(0)
    band_of = np.searchsorted(_THIRDS_HZ, np.fft.rfftfreq(_FRAME, 1 / sample_rate))
    levels = [10 * np.log10(power[band_of == band].mean() + 1e-20) for band in range(1, len(_THIRDS_HZ))]
    octaves = np.arange(len(levels)) / 3
    return float(np.polyfit(octaves, levels, 1)[0])


def play_suite(
    pipeline: ACEStepPipeline,
    lora: str,
    prompts: Sequence[Prompt],
    *,
    strengths: Sequence[float],
    seeds: Sequence[int] = (1, 2),
    duration_s: float = 10.0,
    cache: SongCache | None = None,
    identity: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    **sampling: Any,
) -> dict[float, list[SuiteSong]]:
    """Every prompt and seed with the base (0) and at each strength, in the same order.

    lora: the name that `pipeline.load_lora` gave; cache, identity: as `generate_comparisons` takes them. Latents are
    kept of the base's songs alone. What a prompt's error says is kept as its outcome.
    """
    chosen = (0.0, *(strength for strength in strengths if strength))
    songs: dict[float, list[SuiteSong]] = {strength: [] for strength in chosen}
    total, done = len(prompts) * len(seeds) * len(chosen), 0
    for prompt in prompts:
        for seed in seeds:
            asked = {"prompt": prompt.prompt, "lyrics": prompt.lyrics, "duration": duration_s, "seed": seed, **sampling}
            for strength in chosen:
                pipeline.set_lora_weights({lora: strength})
                song = _played(pipeline, prompt, seed, asked, None if strength else cache, identity or {})
                songs[strength].append(replace(song, latents=None) if strength else song)
                done += 1
                if progress is not None:
                    progress(done, total)
    return songs


def play_edge(
    pipeline: ACEStepPipeline,
    lora: str,
    prompts: Sequence[EdgePrompt],
    *,
    strengths: Sequence[float],
    seed: int = 1,
    duration_s: float = MIN_DURATION_S,
    cache: SongCache | None = None,
    identity: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    **sampling: Any,
) -> dict[float, list[SuiteSong]]:
    """As `play_suite`, with one short song a prompt: here it counts whether there is music at all."""
    return play_suite(
        pipeline, lora, prompts, strengths=strengths, seeds=(seed,), duration_s=duration_s, cache=cache,
        identity=identity, progress=progress, **sampling,
    )  # fmt: skip


def _played(
    pipeline: ACEStepPipeline,
    prompt: Prompt,
    seed: int,
    asked: dict[str, Any],
    cache: SongCache | None,
    identity: Mapping[str, Any],
) -> SuiteSong:
    try:
        song: GenerationResult = base_song(pipeline, identity, cache, **asked) if cache else pipeline(**asked)
    except InputError as error:
        return SuiteSong(prompt, seed, REFUSED, said=str(error))
    except (AceStepError, RuntimeError, ValueError) as error:  # whatever it is, the other prompts are to be heard
        return SuiteSong(prompt, seed, FAILED, said=f"{type(error).__name__}: {error}")
    return hear_song(song.audio.numpy(), song.sample_rate, prompt, seed, latents=song.latents)
