"""Changed copies of recordings to train on: transposed, faster or slower, with a little noise; prompts follow.

A copy is a function of the recording's content, its own number and the kinds that are on, so it can be encoded once and
cached, and neither other tracks nor the number of copies change it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from acestep.audio.streaming import Audio, stream_recording
from acestep.audio.stretching import stretch
from acestep.datasets.annotations import Annotation
from acestep.datasets.musical_terms import is_key, scale_tempos, transpose_key, transpose_text
from acestep.datasets.seeding import derive_seed, derive_share, derived_generator
from acestep.errors import InputError

AUGMENTATION_VERSION = 1
"""Part of every copy's place in the cache: raise it when a change to this module or its tools changes copies."""
SEMITONES = (-2, -1, 1, 2)
"""Whole ones, so that a key that is told stays true."""
TEMPOS = (0.9, 1.1)
SNR_DB = (35.0, 50.0)
"""From a hiss that is heard in quiet passages to one that hardly is."""
SHORTEST_S = 1.0
"""Shorter recordings have no copies: stretching looks at 0.12 s at once, and a frame could be missing."""
MAX_VARIANTS = 32
# Steps of the golden section fill an interval evenly, however many are taken.
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Change:
    """What makes a copy of a recording. snr_db: of white noise under the music; None for none."""

    semitones: int = 0
    tempo: float = 1.0
    snr_db: float | None = None
    noise_seed: int = 0

    def origin(self) -> dict[str, int | float]:
        """What a cached copy depends on, besides the recording; nothing for the recording itself."""
        if self == Change():
            return {}
        noise = {} if self.snr_db is None else {"snr_db": self.snr_db, "noise_seed": self.noise_seed}
        return {"augmentation": AUGMENTATION_VERSION, "semitones": self.semitones, "tempo": self.tempo, **noise}

    def annotate(self, annotation: Annotation) -> Annotation:
        """The annotation of the copy: bpm, key, prompt and tags follow, lyrics stay. See datasets/musical_terms.py for
        what is understood in a prompt."""
        changed = annotation
        if self.semitones:
            key = annotation.key
            changed = replace(
                _with_words(changed, lambda text: transpose_text(text, self.semitones, key=key)),
                key=transpose_key(key, self.semitones) if key else "",
            )
        if self.tempo != 1:
            bpm = None if annotation.bpm is None else annotation.bpm * self.tempo
            changed = replace(_with_words(changed, lambda text: scale_tempos(text, self.tempo)), bpm=bpm)
        return changed

    def apply(self, blocks: Iterable[Audio], sample_rate: int, *, power: float = 0.0) -> Iterator[Audio]:
        """Blocks (2, samples) of the recording -> blocks of the copy; n samples become round(n / tempo).

        power: mean square of the recording's samples, which noise is measured against.
        """
        stretched = stretch(blocks, sample_rate, semitones=self.semitones, tempo=self.tempo)
        if self.snr_db is None:
            yield from stretched
            return
        generator = np.random.default_rng(self.noise_seed)
        level = np.float32(np.sqrt(power) * 10 ** (-self.snr_db / 20))
        for block in stretched:
            # Drawn sample by sample, so that it does not matter how the recording is cut into blocks.
            noise = generator.standard_normal((block.shape[1], 2), dtype=np.float32).T
            yield np.clip(block + level * noise, -1, 1)

    def read(self, path: Path, sample_rate: int) -> Iterator[Audio]:
        """Blocks (2, samples) of a recording's copy, at `sample_rate`; errors as `stream_recording`."""
        power = 0.0 if self.snr_db is None else mean_power(stream_recording(path, sample_rate))
        return self.apply(stream_recording(path, sample_rate), sample_rate, power=power)

    def __str__(self) -> str:
        pitch = f"{self.semitones:+d} semitones" if self.semitones else ""
        tempo = f"tempo x {self.tempo:g}" if self.tempo != 1 else ""
        noise = f"noise {self.snr_db:.0f} dB below" if self.snr_db is not None else ""
        return ", ".join(part for part in (pitch, tempo, noise) if part) or "as recorded"


@dataclass(frozen=True)
class Augmentation:
    """Which kinds of change are on, and how many copies a track has beside itself; each copy has all kinds at once."""

    pitch_shift: bool = True
    time_stretch: bool = True
    add_noise: bool = False
    variants: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.variants <= MAX_VARIANTS:
            raise InputError(f"{self.variants} variants of a track were asked for; expected 0 to {MAX_VARIANTS}")

    def changes(self, content: str, annotation: Annotation, duration_s: float) -> tuple[Change, ...]:
        """The copies of one recording, of which `content` is the sha256; see `keeps_pitch` and SHORTEST_S for fewer."""
        if duration_s < SHORTEST_S:
            return ()
        pitch_shift = self.pitch_shift and not keeps_pitch(annotation)
        drawn = [
            Change(
                semitones=_semitones(content, number) if pitch_shift else 0,
                tempo=_tempo(content, number) if self.time_stretch else 1.0,
                snr_db=_snr_db(content, number) if self.add_noise else None,
                noise_seed=derive_seed(content, "noise", number) if self.add_noise else 0,
            )
            for number in range(1, self.variants + 1)
        ]
        return tuple(change for change in dict.fromkeys(drawn) if change != Change())


def keeps_pitch(annotation: Annotation) -> bool:
    """Whether a track must not be transposed: its key is told in words that we cannot tell anew (`8A`, `h-Moll`)."""
    return bool(annotation.key) and not is_key(annotation.key)


def mean_power(blocks: Iterable[Audio]) -> float:
    """Mean square of all samples; 0 where there are none."""
    total, samples = 0.0, 0
    for block in blocks:
        total += float(np.square(block, dtype=np.float64).sum())
        samples += block.size
    return total / samples if samples else 0.0


def _semitones(content: str, number: int) -> int:
    """Each of SEMITONES once in so many copies, in an order of the recording's own."""
    turn, place = divmod(number - 1, len(SEMITONES))
    order = torch.randperm(len(SEMITONES), generator=derived_generator(content, "pitch", turn))
    return SEMITONES[int(order[place])]


def _tempo(content: str, number: int) -> float:
    place = (derive_share(content, "tempo") + number * _GOLDEN) % 1
    return round(TEMPOS[0] + (TEMPOS[1] - TEMPOS[0]) * place, 4)


def _snr_db(content: str, number: int) -> float:
    return round(SNR_DB[0] + (SNR_DB[1] - SNR_DB[0]) * derive_share(content, "snr", number), 2)


def _with_words(annotation: Annotation, rewrite: Callable[[str], str]) -> Annotation:
    return replace(annotation, prompt=rewrite(annotation.prompt), tags=tuple(map(rewrite, annotation.tags)))
