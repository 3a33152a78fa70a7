"""One-shot notes of pitched instruments: additive synthesis, computed once per pitch and kept.

Two engines. A *waveform* timbre reads a band-limited single-cycle table, cross-fading from a bright to a dark one, with
detuned copies: synthesisers, organs, winds. A *modal* timbre adds decaying partials: strings, pianos, bells, drums
with a pitch.
A note of 2 to 4 s costs 5 to 40 ms, so a track's hundreds of notes are cut from a few dozen renders.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 44100
TABLE_SIZE = 2048
HIGHEST_PARTIAL_HZ = 15000.0

Signal = NDArray[np.float32]


@dataclass(frozen=True)
class Timbre:
    """How one instrument sounds. Times in seconds, cut-offs in Hz.

    shape: saw, square, pulse, triangle, organ, reed, or modal. `bright` and `dark` are the low-pass cut-offs at the
    attack and after `closing` seconds. `decay` is the time constant of the whole note (inf sustains); for modal
    timbres the
    partials listed in `partials` (ratio, amplitude) fall faster the higher they are, by `damping`.
    """

    shape: str
    seconds: float = 2.5
    attack: float = 0.004
    decay: float = float("inf")
    release: float = 0.06
    bright: float = 6000.0
    dark: float = 6000.0
    closing: float = 0.3
    detune_cents: tuple[float, ...] = (0.0,)
    stack: tuple[float, ...] = (1.0,)
    vibrato: float = 0.0
    drive: float = 0.0
    partials: tuple[tuple[float, float], ...] = ()
    damping: float = 0.0
    noise: float = 0.0
    glide: float = 0.0
    gain: float = 1.0


def _string(count: int, position: float, rolloff: float = 1.0, stretch: float = 0.0) -> tuple[tuple[float, float], ...]:
    """Partials of a plucked or struck string: a comb set by where it is excited, and a little inharmonicity."""
    return tuple(
        (k * float(np.sqrt(1 + stretch * k * k)), float(abs(np.sin(np.pi * k * position)) / k**rolloff + 1e-4))
        for k in range(1, count + 1)
    )


TIMBRES: dict[str, Timbre] = {
    "electric piano": Timbre(
        "modal",
        3.0,
        0.003,
        1.3,
        0.12,
        partials=((1, 1.0), (2, 0.35), (3, 0.12), (4, 0.1), (7.1, 0.12), (14.2, 0.05)),
        damping=0.5,
    ),
    "piano": Timbre("modal", 3.0, 0.002, 1.6, 0.15, partials=_string(24, 0.12, 1.35, 2e-4), damping=0.25, noise=0.05),
    "organ": Timbre("organ", 3.0, 0.012, release=0.05, bright=5000, dark=5000, vibrato=6.0),
    "house organ": Timbre("organ", 1.5, 0.003, 0.5, 0.05, bright=7000, dark=2500, closing=0.15),
    "nylon guitar": Timbre("modal", 2.5, 0.002, 0.9, 0.1, partials=_string(18, 0.22, 1.3), damping=0.45, noise=0.04),
    "acoustic guitar": Timbre("modal", 2.5, 0.001, 1.3, 0.12, partials=_string(30, 0.13, 0.9), damping=0.2, noise=0.1),
    "clean guitar": Timbre("modal", 2.5, 0.002, 1.0, 0.04, partials=_string(20, 0.3, 1.0), damping=0.25, noise=0.05),
    "distorted guitar": Timbre(
        "saw", 2.5, 0.004, 3.0, 0.08, bright=3800, dark=3200, stack=(1.0, 1.4983, 2.0), drive=7.0, detune_cents=(-4, 4)
    ),
    "guitar lead": Timbre(
        "saw", 2.5, 0.006, 4.0, 0.1, bright=4500, dark=3600, drive=5.0, vibrato=18.0, detune_cents=(-3, 3)
    ),
    "clavinet": Timbre("pulse", 1.2, 0.001, 0.35, 0.03, bright=9000, dark=1800, closing=0.09),
    "vibraphone": Timbre(
        "modal", 3.0, 0.002, 1.8, 0.3, partials=((1, 1.0), (4, 0.3), (10, 0.06)), damping=0.4, vibrato=4.0
    ),
    "bells": Timbre(
        "modal", 3.0, 0.001, 1.6, 0.4, partials=((1, 1.0), (2.76, 0.5), (5.4, 0.25), (8.9, 0.1)), damping=0.35
    ),
    "strings": Timbre(
        "saw", 4.0, 0.12, release=0.25, bright=3500, dark=3000, detune_cents=(-9, -3, 4, 10), vibrato=10.0
    ),
    "brass": Timbre(
        "saw", 3.0, 0.05, release=0.1, bright=2200, dark=4200, closing=0.12, detune_cents=(-4, 4), vibrato=5.0
    ),
    "flute": Timbre("triangle", 3.0, 0.05, release=0.1, bright=4000, dark=3500, vibrato=14.0, noise=0.03),
    "saxophone": Timbre("reed", 3.0, 0.03, release=0.08, bright=4200, dark=3000, vibrato=14.0, noise=0.02),
    "warm pad": Timbre("saw", 5.0, 0.35, release=0.6, bright=1300, dark=1500, detune_cents=(-11, -4, 5, 12)),
    "glass pad": Timbre(
        "triangle", 5.0, 0.5, release=0.8, bright=7000, dark=5000, detune_cents=(-7, 7), stack=(1.0, 2.0)
    ),
    "analog pad": Timbre("saw", 4.0, 0.15, release=0.3, bright=2600, dark=1700, closing=1.0, detune_cents=(-10, 0, 10)),
    "saw stab": Timbre("saw", 1.2, 0.002, 0.25, 0.05, bright=9000, dark=1500, closing=0.12, detune_cents=(-12, 0, 12)),
    "pluck": Timbre("saw", 1.5, 0.002, 0.3, 0.05, bright=6000, dark=900, closing=0.1, detune_cents=(-5, 5)),
    "saw lead": Timbre("saw", 2.5, 0.008, release=0.08, bright=6000, dark=4500, detune_cents=(-8, 0, 8), vibrato=10.0),
    "square lead": Timbre("square", 2.0, 0.001, release=0.02, bright=14000, dark=14000),
    "pulse lead": Timbre("pulse", 2.0, 0.001, release=0.02, bright=14000, dark=14000, vibrato=12.0),
    "sine lead": Timbre("triangle", 2.5, 0.02, release=0.1, bright=1500, dark=1500, vibrato=10.0),
    "soft bass": Timbre("triangle", 2.0, 0.006, 1.2, 0.05, bright=700, dark=350, closing=0.2),
    "finger bass": Timbre("modal", 2.0, 0.002, 0.7, 0.05, partials=_string(14, 0.2, 1.2), damping=0.35, noise=0.02),
    "slap bass": Timbre("modal", 1.5, 0.001, 0.45, 0.04, partials=_string(24, 0.07, 0.7), damping=0.25, noise=0.25),
    "upright bass": Timbre("modal", 1.8, 0.004, 0.5, 0.06, partials=_string(9, 0.25, 1.6), damping=0.5, noise=0.04),
    "house bass": Timbre("square", 1.2, 0.002, 0.6, 0.03, bright=1800, dark=500, closing=0.08),
    "acid bass": Timbre("saw", 0.8, 0.001, 0.3, 0.02, bright=5000, dark=350, closing=0.07, drive=3.0),
    "reese bass": Timbre(
        "saw", 2.5, 0.01, release=0.04, bright=900, dark=1400, closing=0.6, detune_cents=(-22, 0, 22), drive=2.0
    ),
    "808 bass": Timbre("triangle", 2.5, 0.002, 1.0, 0.06, bright=500, dark=200, drive=2.5, glide=0.5),
    "synth bass": Timbre("saw", 1.5, 0.002, 0.8, 0.03, bright=2600, dark=700, closing=0.12, detune_cents=(-6, 6)),
    "chip bass": Timbre("triangle", 1.5, 0.001, release=0.01, bright=9000, dark=9000),
    "picked bass": Timbre("saw", 1.8, 0.002, 1.0, 0.04, bright=1800, dark=800, closing=0.2, drive=2.0),
    "low strings": Timbre("saw", 3.5, 0.09, release=0.2, bright=1500, dark=1100, detune_cents=(-7, 0, 7)),
    "dub bass": Timbre("triangle", 2.0, 0.008, 1.6, 0.06, bright=400, dark=260),
    "gamelan": Timbre(
        "modal",
        2.6,
        0.001,
        0.9,
        0.5,
        partials=((1, 1.0), (1.013, 0.7), (2.32, 0.6), (3.85, 0.4), (6.1, 0.25)),
        damping=0.3,
    ),
    "music box": Timbre(
        "modal", 2.2, 0.001, 0.7, 0.5, partials=((1, 0.8), (3.0, 0.55), (6.27, 0.35), (9.6, 0.2)), damping=0.15
    ),
    "gong": Timbre(
        "modal",
        4.0,
        0.01,
        2.2,
        0.9,
        partials=((1, 1.0), (1.41, 0.6), (2.17, 0.5), (2.94, 0.4), (4.3, 0.3)),
        damping=0.3,
    ),
    "accordion": Timbre("reed", 3.0, 0.05, release=0.07, bright=5500, dark=5500, detune_cents=(-13, 0, 13)),
}


@lru_cache(maxsize=4096)
def note(instrument: str, midi: int) -> Signal:
    """One long note at full velocity, about -12 dB RMS at its start. -> (samples,) float32, read-only by convention"""
    timbre = TIMBRES[instrument]
    frequency = 440.0 * 2.0 ** ((midi - 69) / 12)
    time = np.asarray(np.arange(int(timbre.seconds * SAMPLE_RATE), dtype=np.float32) / SAMPLE_RATE, dtype=np.float32)
    rng = np.random.default_rng(midi + 1000 * (sum(map(ord, instrument)) % 997))
    signal = (
        _modal(timbre, frequency, time, rng) if timbre.shape == "modal" else _waveform(timbre, frequency, time, rng)
    )
    if timbre.drive:
        signal = np.tanh(timbre.drive * signal / (np.abs(signal).max() + 1e-6))
        signal = _lowpass(signal, timbre.bright * 1.3)
    if timbre.noise:
        burst = rng.standard_normal(time.size).astype(np.float32) * np.exp(-time / 0.012)
        signal = signal + timbre.noise * np.abs(signal[:4410]).max() * burst
    signal = signal * (1 - np.exp(-time / timbre.attack))
    head = signal[: int(0.4 * SAMPLE_RATE)]
    return np.asarray(0.25 * timbre.gain * signal / (np.sqrt(np.mean(head**2)) + 1e-6), dtype=np.float32)


def release_of(instrument: str) -> float:
    """How long a note of this instrument fades once it is let go, in seconds."""
    return TIMBRES[instrument].release


def _phase(timbre: Timbre, frequency: float, time: Signal, rng: np.random.Generator) -> NDArray[np.float64]:
    """Cycles since the start, with delayed vibrato and, for glides, a fall from above."""
    steady = frequency * time.astype(np.float64)
    if timbre.vibrato:
        rate = 5.0 + rng.random()
        depth = 2 ** (timbre.vibrato / 1200) - 1
        swell = np.minimum(time / 0.5, 1.0)
        steady = steady - frequency * depth * swell * np.cos(2 * np.pi * rate * time) / (2 * np.pi * rate)
    if timbre.glide:
        steady = steady + frequency * timbre.glide * 0.03 * (1 - np.exp(-time / 0.03))
    return steady


def _waveform(timbre: Timbre, frequency: float, time: Signal, rng: np.random.Generator) -> Signal:
    fade = np.exp(-time / timbre.closing)
    phase = _phase(timbre, frequency, time, rng)
    signal = np.zeros_like(time)
    for ratio in timbre.stack:
        bright = _table(timbre.shape, frequency * ratio, timbre.bright)
        dark = _table(timbre.shape, frequency * ratio, timbre.dark)
        for cents in timbre.detune_cents:
            position = ((phase * ratio * 2 ** (cents / 1200) + rng.random()) % 1.0 * TABLE_SIZE).astype(np.int32)
            signal += dark[position] + fade * (bright[position] - dark[position])
    return np.asarray(signal * np.exp(-time / timbre.decay), dtype=np.float32)


def _table(shape: str, frequency: float, cutoff: float) -> Signal:
    """One cycle of a waveform with its partials rolled off above the cut-off and none above 15 kHz."""
    count = max(1, min(int(HIGHEST_PARTIAL_HZ / frequency), TABLE_SIZE // 4))
    k = np.arange(1, count + 1)
    amplitudes = {
        "saw": 1.0 / k,
        "square": (k % 2) / k,
        "pulse": np.abs(np.sin(np.pi * k * 0.2)) / k,
        "triangle": (k % 2) / k**2,
        "organ": np.isin(k, (1, 2, 3, 4, 6, 8)) * np.where(k <= 3, 1.0, 0.5),
        "reed": np.exp(-0.5 * ((np.log2(k * frequency / 900)) / 1.3) ** 2) + 0.3 / k,
    }[shape]
    amplitudes = amplitudes / np.sqrt(1 + (k * frequency / cutoff) ** 6)
    spectrum = np.zeros(TABLE_SIZE // 2 + 1, dtype=np.complex128)
    spectrum[1 : count + 1] = -1j * amplitudes
    table = np.fft.irfft(spectrum, TABLE_SIZE) * TABLE_SIZE / 2
    return np.asarray(table, dtype=np.float32)


def _modal(timbre: Timbre, frequency: float, time: Signal, rng: np.random.Generator) -> Signal:
    signal = np.zeros_like(time)
    for ratio, amplitude in timbre.partials:
        if frequency * ratio > HIGHEST_PARTIAL_HZ:
            continue
        lifetime = timbre.decay / (1 + timbre.damping * (ratio - 1)) * (220 / max(frequency, 55)) ** 0.25
        kept = min(time.size, int(7 * lifetime * SAMPLE_RATE))
        at = time[:kept]
        tremor = 1 + 0.02 * timbre.vibrato * np.sin(2 * np.pi * 5.5 * at) if timbre.vibrato else 1.0
        angle = ((frequency * ratio) * at.astype(np.float64) + rng.random()) % 1.0
        signal[:kept] += amplitude * np.exp(-at / lifetime) * tremor * np.sin(2 * np.pi * angle.astype(np.float32))
    return signal


def _lowpass(signal: Signal, cutoff: float) -> Signal:
    spectrum = np.fft.rfft(signal)
    frequencies = np.fft.rfftfreq(signal.size, 1 / SAMPLE_RATE)
    return np.asarray(np.fft.irfft(spectrum / np.sqrt(1 + (frequencies / cutoff) ** 8), signal.size), dtype=np.float32)
