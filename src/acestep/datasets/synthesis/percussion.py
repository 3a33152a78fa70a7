"""One-shot drum sounds: swept sines and shaped noise, a few takes of each so repeats are not identical."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from acestep.datasets.synthesis.timbres import SAMPLE_RATE

Signal = NDArray[np.float32]
TAKES = 3

# kick: (start Hz, end Hz, sweep s, decay s, click); noise drums: (low Hz, high Hz, decay s); the last number is the
# level.
_KICKS = {
    "soft kick": (110, 52, 0.03, 0.16, 0.05, 0.8),
    "house kick": (190, 50, 0.035, 0.22, 0.2, 1.0),
    "hard kick": (260, 46, 0.04, 0.26, 0.5, 1.1),
    "acoustic kick": (120, 62, 0.02, 0.13, 0.35, 0.9),
    "808 kick": (130, 44, 0.05, 0.4, 0.15, 1.0),
    "chip kick": (300, 60, 0.05, 0.09, 0.0, 0.8),
    "tom": (170, 95, 0.06, 0.22, 0.1, 0.7),
    "low tom": (120, 66, 0.06, 0.28, 0.1, 0.8),
    "timpani": (98, 82, 0.08, 0.6, 0.08, 0.8),
    "conga": (330, 290, 0.02, 0.12, 0.12, 0.45),
    "tabla high": (430, 400, 0.01, 0.22, 0.25, 0.55),
    "tabla low": (75, 120, 0.12, 0.3, 0.1, 0.8),
}
_NOISES = {
    "closed hat": (7000, 16000, 0.028, 0.3),
    "soft hat": (6000, 12000, 0.022, 0.2),
    "open hat": (6500, 16000, 0.16, 0.32),
    "ride": (5000, 14000, 0.3, 0.22),
    "crash": (2500, 16000, 0.9, 0.45),
    "shaker": (4500, 11000, 0.05, 0.22),
    "tambourine": (7000, 15000, 0.08, 0.28),
    "chip hat": (3000, 16000, 0.03, 0.28),
    "brush": (1500, 8000, 0.12, 0.3),
    "chip snare": (800, 12000, 0.11, 0.55),
}
# (body Hz, body decay, noise low, noise high, noise decay, level)
_SNARES = {
    "soft snare": (185, 0.07, 900, 6000, 0.11, 0.55),
    "acoustic snare": (200, 0.09, 1200, 11000, 0.15, 0.8),
    "break snare": (230, 0.07, 1500, 12000, 0.11, 0.85),
    "gated snare": (170, 0.12, 600, 10000, 0.6, 0.85),
    "trap snare": (240, 0.05, 1800, 14000, 0.14, 0.75),
    "rim": (850, 0.018, 2000, 5000, 0.012, 0.5),
    "clap": (0, 0.01, 900, 6500, 0.13, 0.75),
    "snap": (0, 0.01, 1800, 5500, 0.06, 0.6),
}
DRUMS = (*_KICKS, *_NOISES, *_SNARES)


@lru_cache(maxsize=256)
def hit(drum: str, take: int = 0) -> Signal:
    """One stroke at full velocity. -> (samples,) float32"""
    rng = np.random.default_rng(take * 7919 + sum(map(ord, drum)))
    if drum in _KICKS:
        return _kick(*_KICKS[drum], rng)
    if drum in _NOISES:
        low, high, decay, level = _NOISES[drum]
        return level * _noise(low, high, decay, rng)
    return _snare(drum, *_SNARES[drum], rng)


def _kick(
    start: float, end: float, sweep: float, decay: float, click: float, level: float, rng: np.random.Generator
) -> Signal:
    time = np.arange(int(5 * decay * SAMPLE_RATE)) / SAMPLE_RATE
    cycles = end * time + (start - end) * sweep * (1 - np.exp(-time / sweep))
    body = np.tanh(1.6 * np.sin(2 * np.pi * cycles)) * np.exp(-time / decay)
    tick = rng.standard_normal(time.size) * np.exp(-time / 0.003) * click
    return np.asarray(level * (body + tick), dtype=np.float32)


def _noise(low: float, high: float, decay: float, rng: np.random.Generator) -> Signal:
    count = int(min(6 * decay, 2.5) * SAMPLE_RATE)
    time = np.arange(count) / SAMPLE_RATE
    frequencies = np.fft.rfftfreq(count, 1 / SAMPLE_RATE)
    band = 1 / np.sqrt(1 + (low / np.maximum(frequencies, 1)) ** 8) / np.sqrt(1 + (frequencies / high) ** 8)
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(count)) * band, count)
    return np.asarray(noise / noise.std() * np.exp(-time / decay), dtype=np.float32)


def _snare(
    drum: str,
    body_hz: float,
    body_decay: float,
    low: float,
    high: float,
    decay: float,
    level: float,
    rng: np.random.Generator,
) -> Signal:
    noise = _noise(low, high, decay, rng)
    time = np.arange(noise.size) / SAMPLE_RATE
    if drum == "gated snare":
        noise = np.where(time < 0.2, noise, np.float32(0))
    if drum == "clap":
        strokes = sum(np.exp(-np.maximum(time - at, 0) / 0.007) * (time >= at) for at in (0.0, 0.011, 0.022))
        noise = np.asarray(noise * (0.5 * np.asarray(strokes) + (time > 0.03)), dtype=np.float32)
    body = np.sin(2 * np.pi * body_hz * time) * np.exp(-time / body_decay) if body_hz else 0.0
    return np.asarray(level * (0.45 * noise + 0.8 * body), dtype=np.float32)
