"""What a song sounds like, as 56 numbers: statistics of its log-mel spectrum and of its rhythm.

Made for asking whether two sets of songs sound alike, on a CPU and without weights: a minute of music takes a third of
a second. Deaf to loudness by design, so that a louder song is not a nearer one. Timbre after Davis and Mermelstein 1980
(cepstra of a mel spectrum), rhythm after Pampalk 2006, chapter 2.2.4 (modulation of loudness in bands).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from acestep.errors import InputError

Floats = NDArray[np.float64]

FRAME_S = 0.046
HOP_S = 0.02
BANDS = 40
LOWEST_HZ = 40.0
HIGHEST_HZ = 11025.0
CEPSTRA = 20
RHYTHM_BANDS_HZ = (250.0, 2000.0)
MODULATION_HZ = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
PULSE_PERIOD_S = (0.25, 1.5)
CHUNK = 512
"""Frames transformed at once: a song of four minutes would take 600 MB in one piece."""
WINDOW_S = 5.0
WINDOW_HOP_S = 2.5
FLOOR = 1e-10
DYNAMIC_RANGE = 1e-8
"""What lies 80 dB below a song's loudest mel value counts as silence: a noise floor says nothing about style."""

DIMENSIONS = 2 * CEPSTRA + (len(RHYTHM_BANDS_HZ) + 1) * (len(MODULATION_HZ) - 1) + 1


def embed_windows(audio: NDArray[np.floating], sample_rate: int) -> Floats:
    """Embeddings of windows of 5 s, one each 2.5 s; a shorter song is one window.

    audio: (channels, samples) at `sample_rate` >= 22050 -> (windows, DIMENSIONS) float64. InputError for NaN or
    infinity, for less than a second, for a sample rate that cannot hold the highest band.
    """
    log_mel = log_mel_frames(audio, sample_rate)
    size, hop = round(WINDOW_S / HOP_S), round(WINDOW_HOP_S / HOP_S)
    starts = range(0, max(len(log_mel) - size, 0) + 1, hop)
    return np.stack(
        [np.concatenate([_timbre(part), _rhythm(part)]) for part in (log_mel[s : s + size] for s in starts)]
    )


def log_mel_frames(audio: NDArray[np.floating], sample_rate: int) -> Floats:
    """Natural log of mel power, one frame each 20 ms: (channels, samples) -> (frames, BANDS) float64."""
    if sample_rate < 2 * HIGHEST_HZ:
        raise InputError(
            f"audio at {sample_rate} Hz cannot be compared; expected {2 * HIGHEST_HZ:.0f} Hz or more, resample it first"
        )
    mono = np.asarray(audio, dtype=np.float64).reshape(-1, np.shape(audio)[-1]).mean(0)
    if not np.isfinite(mono).all():
        raise InputError("the audio holds NaN or infinite samples; the model or the file that it came from is broken")
    size, hop = round(FRAME_S * sample_rate), round(HOP_S * sample_rate)
    if len(mono) < sample_rate:
        raise InputError(f"{len(mono) / sample_rate:.2f} s of audio are too short to compare; expected at least 1 s")
    frames = np.lib.stride_tricks.sliding_window_view(mono, size)[::hop]
    mel = np.concatenate([_mel(frames[start : start + CHUNK], sample_rate) for start in range(0, len(frames), CHUNK)])
    return np.asarray(np.log(np.maximum(mel, max(FLOOR, float(mel.max()) * DYNAMIC_RANGE))))


def _mel(frames: Floats, sample_rate: int) -> Floats:
    size = frames.shape[1]
    power = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)) ** 2
    return np.asarray(power @ _mel_filters(size, sample_rate))


def _timbre(log_mel: Floats) -> Floats:
    """Means of cepstra 1 to 20 and deviations of 0 to 19; the mean of cepstrum 0 is loudness and is left out."""
    cepstra = log_mel @ _cosines()
    return np.concatenate([cepstra.mean(0)[1:], cepstra.std(0)[:-1]])


def _rhythm(log_mel: Floats) -> Floats:
    """How strongly bass, middle and treble swing at five ranges of speed, and how regular the onsets are."""
    centres = _mel_points()[1:-1]
    band_of = np.searchsorted(RHYTHM_BANDS_HZ, centres)
    envelopes = np.stack([log_mel[:, band_of == band].mean(1) for band in range(len(RHYTHM_BANDS_HZ) + 1)], axis=1)
    envelopes = (envelopes - envelopes.mean(0)) * np.hanning(len(envelopes))[:, None]
    power = np.abs(np.fft.rfft(envelopes, axis=0)) ** 2 / len(envelopes) ** 2
    range_of = np.searchsorted(MODULATION_HZ, np.fft.rfftfreq(len(envelopes), HOP_S), side="right")
    swing = np.stack([power[range_of == index].sum(0) for index in range(1, len(MODULATION_HZ))])
    return np.append(np.log(swing + 1e-4).T.ravel(), _pulse_clarity(log_mel))


def _pulse_clarity(log_mel: Floats) -> float:
    """Highest autocorrelation of the onset strength at the periods of a beat; 1 is a metronome, 0 has no pulse."""
    onsets = np.maximum(np.diff(log_mel, axis=0), 0).mean(1)
    onsets = onsets - onsets.mean()
    energy = float(onsets @ onsets)
    shortest, longest = (round(period / HOP_S) for period in PULSE_PERIOD_S)
    lags = range(shortest, min(longest, len(onsets) - 1))
    if energy < FLOOR or not lags:
        return 0.0
    return max(float(onsets[lag:] @ onsets[:-lag]) for lag in lags) / energy


@lru_cache
def _cosines() -> Floats:
    """Orthonormal DCT-II, (BANDS, CEPSTRA + 1)."""
    angles = np.pi * (np.arange(BANDS)[:, None] + 0.5) * np.arange(CEPSTRA + 1) / BANDS
    scale = np.where(np.arange(CEPSTRA + 1) == 0, np.sqrt(1 / BANDS), np.sqrt(2 / BANDS))
    return np.asarray(np.cos(angles) * scale)


@lru_cache
def _mel_filters(size: int, sample_rate: int) -> Floats:
    """Triangles of equal area on O'Shaughnessy's mel scale, (size // 2 + 1, BANDS)."""
    hertz = np.fft.rfftfreq(size, 1 / sample_rate)[:, None]
    points = _mel_points()
    low, centre, high = points[:-2], points[1:-1], points[2:]
    # A band narrower than a bin of the spectrum would see nothing; it is widened to two bins.
    bin_hz = sample_rate / size
    low, high = np.minimum(low, centre - bin_hz), np.maximum(high, centre + bin_hz)
    triangles = np.maximum(0, np.minimum((hertz - low) / (centre - low), (high - hertz) / (high - centre)))
    return np.asarray(triangles / triangles.sum(0))


def _mel_points() -> Floats:
    ends = 2595 * np.log10(1 + np.array([LOWEST_HZ, HIGHEST_HZ]) / 700)
    return np.asarray(700 * (10 ** (np.linspace(ends[0], ends[1], BANDS + 2) / 2595) - 1))
