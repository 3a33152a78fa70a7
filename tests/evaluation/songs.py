"""Small songs with a known sound: noise of a given colour, and clicks at a given tempo."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RATE = 44100


def coloured_noise(slope_db: float, *, seed: int, seconds: float = 8.0) -> NDArray[np.float64]:
    """Stereo noise whose spectrum rises by `slope_db` an octave above 100 Hz, slowly swelling; (2, samples)."""
    generator = np.random.default_rng(seed)
    count = int(seconds * RATE)
    spectrum = np.fft.rfft(generator.normal(size=(2, count)), axis=1)
    octaves = np.log2(np.maximum(np.fft.rfftfreq(count, 1 / RATE), 100) / 100)
    song = np.fft.irfft(spectrum * 10 ** (slope_db * octaves / 20), count, axis=1)
    swell = 1 + 0.3 * np.sin(2 * np.pi * (0.7 + 0.05 * generator.random()) * np.arange(count) / RATE)
    return np.asarray(0.1 * song * swell / song.std())


def clicks(bpm: float, *, seed: int = 0, seconds: float = 8.0, jitter_s: float = 0.0) -> NDArray[np.float64]:
    """Short bursts of noise at a tempo, each late by up to `jitter_s`; (1, samples)."""
    generator = np.random.default_rng(seed)
    song = np.zeros((1, int(seconds * RATE)))
    burst = generator.normal(size=2000) * np.exp(-np.arange(2000) / 300)
    for beat in np.arange(0, seconds - 0.5, 60 / bpm):
        start = int((beat + jitter_s * generator.random()) * RATE)
        song[0, start : start + len(burst)] += burst
    return song
