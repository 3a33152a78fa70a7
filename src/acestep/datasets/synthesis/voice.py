"""A sung vowel: harmonics of a glottal pulse weighted by formants, with vibrato and a breathed consonant before it.

Formant centres are the textbook averages of Peterson and Barney (1952); women's are about 17 % higher.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from acestep.datasets.synthesis.timbres import SAMPLE_RATE

Signal = NDArray[np.float32]
SECONDS = 2.2
FORMANTS = {
    "a": ((730, 1.0), (1090, 0.6), (2440, 0.25), (3400, 0.1)),
    "e": ((530, 1.0), (1840, 0.4), (2480, 0.25), (3400, 0.1)),
    "i": ((290, 1.0), (2290, 0.35), (3010, 0.25), (3700, 0.1)),
    "o": ((570, 1.0), (840, 0.6), (2410, 0.12), (3300, 0.06)),
    "u": ((300, 1.0), (870, 0.4), (2240, 0.08), (3200, 0.04)),
}
BANDWIDTH_HZ = 110.0


@lru_cache(maxsize=1024)
def sung(vowel: str, midi: int, *, high: bool) -> Signal:
    """A held vowel; `high` is the brighter, female-like voice. -> (samples,) float32"""
    frequency = 440.0 * 2.0 ** ((midi - 69) / 12)
    time = np.arange(int(SECONDS * SAMPLE_RATE), dtype=np.float32) / SAMPLE_RATE
    scale = 1.17 if high else 1.0
    harmonics = np.arange(1, max(2, int(5500 / frequency)) + 1)
    weights = np.zeros(harmonics.size)
    for centre, amplitude in FORMANTS[vowel]:
        weights += amplitude / (1 + ((harmonics * frequency - centre * scale) / BANDWIDTH_HZ) ** 2)
    weights = (weights + 0.02) / harmonics**0.35
    rng = np.random.default_rng(midi * 5 + ord(vowel))
    depth = 0.007
    swell = np.clip((time - 0.12) / 0.3, 0, 1)
    scoop = -0.02 * np.exp(-time / 0.04)
    rate = 5.2 + 0.6 * rng.random()
    cycles = (
        np.cumsum(frequency * (1 + scoop + depth * swell * np.sin(2 * np.pi * rate * time)), dtype=np.float64)
        / SAMPLE_RATE
    )
    size = 4096
    spectrum = np.zeros(size // 2 + 1, dtype=np.complex128)
    spectrum[1 : harmonics.size + 1] = weights * np.exp(1j * rng.uniform(-0.4, 0.4, harmonics.size))
    table = np.fft.irfft(spectrum, size).astype(np.float32)
    signal = table[((cycles % 1.0) * size).astype(np.int32)]
    signal = signal / (np.sqrt(np.mean(signal**2)) + 1e-6)
    breath = rng.standard_normal(time.size).astype(np.float32) * 0.015
    return np.asarray(0.25 * (signal + breath) * (1 - np.exp(-time / 0.025)), dtype=np.float32)


@lru_cache(maxsize=16)
def consonant(kind: int) -> Signal:
    """A short burst of high noise, as between syllables. -> (samples,) float32"""
    rng = np.random.default_rng(kind)
    count = int(0.05 * SAMPLE_RATE)
    noise = np.diff(rng.standard_normal(count + 1))
    return np.asarray(0.06 * noise * np.hanning(count), dtype=np.float32)


def syllables(line: str) -> list[str]:
    """One vowel of FORMANTS per spoken vowel group of a line of words."""
    vowels: list[str] = []
    previous = False
    for letter in line.lower():
        is_vowel = letter in "aeiouy"
        if is_vowel and not previous:
            vowels.append("i" if letter == "y" else letter)
        previous = is_vowel
    return vowels or ["a"]
