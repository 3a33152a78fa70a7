"""Recordings to look at: a mel spectrogram as a picture, and the peaks that a waveform is drawn from."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from acestep.audio.streaming import Audio

_N_FFT = 2048
_FLOOR_DB = -80.0
# Dark to bright in even steps of lightness, so that louder always looks brighter; sampled from CIE Lab by hand.
_COLOURS = np.array(
    [(8, 6, 24), (45, 20, 84), (96, 28, 110), (150, 44, 104), (203, 71, 80), (238, 117, 52), (250, 176, 58), (252,
    240, 164)], dtype=np.float64,
)  # fmt: skip


def mel_picture(audio: Audio, sample_rate: int, *, width: int = 900, height: int = 192) -> bytes:
    """(channels, samples) -> a PNG: time to the right, mel bands upwards, 80 dB from black to bright."""
    level_db = mel_levels_db(audio.mean(axis=0), sample_rate, bands=height, columns=width)
    share = np.clip((level_db - level_db.max() - _FLOOR_DB) / -_FLOOR_DB, 0, 1)
    position = share * (len(_COLOURS) - 1)
    low = np.minimum(position.astype(int), len(_COLOURS) - 2)
    mixed = _COLOURS[low] + (position - low)[..., None] * (_COLOURS[low + 1] - _COLOURS[low])
    picture = Image.fromarray(mixed[::-1].round().astype(np.uint8), mode="RGB")
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def mel_levels_db(mono: NDArray[np.float32], sample_rate: int, *, bands: int, columns: int) -> NDArray[np.float64]:
    """Power of (samples,) in mel bands at `columns` evenly spaced moments -> (bands, columns) in dB."""
    padded = np.pad(mono, _N_FFT // 2)
    starts = np.linspace(0, max(len(mono) - 1, 0), columns).astype(int)
    window = np.hanning(_N_FFT)
    filters = _mel_filters(sample_rate, bands)
    levels = np.empty((bands, columns))
    for first in range(0, columns, 256):  # in pieces: a long song's frames need not all be in memory
        frames = np.stack([padded[start : start + _N_FFT] for start in starts[first : first + 256]])
        power = np.abs(np.fft.rfft(frames * window, axis=1)) ** 2
        levels[:, first : first + 256] = filters @ power.T
    return 10 * np.log10(levels + 1e-10)


def peaks(audio: Audio, columns: int) -> NDArray[np.float32]:
    """Lowest and highest sample of each of `columns` stretches -> (columns, 2)."""
    mono = audio.mean(axis=0)
    edges = np.linspace(0, len(mono), columns + 1).astype(int)[:-1]
    edges = np.minimum(edges, len(mono) - 1)
    return np.stack([np.minimum.reduceat(mono, edges), np.maximum.reduceat(mono, edges)], axis=1).astype(np.float32)


@lru_cache(maxsize=4)
def _mel_filters(sample_rate: int, bands: int) -> NDArray[np.float64]:
    """Triangles, evenly spaced on the mel scale of O'Shaughnessy from 30 Hz up -> (bands, bins)."""
    top = 2595 * np.log10(1 + sample_rate / 2 / 700)
    bottom = 2595 * np.log10(1 + 30 / 700)
    corners = 700 * (10 ** (np.linspace(bottom, top, bands + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(_N_FFT, 1 / sample_rate)
    rising = (bins - corners[:-2, None]) / (corners[1:-1] - corners[:-2])[:, None]
    falling = (corners[2:, None] - bins) / (corners[2:] - corners[1:-1])[:, None]
    # Low bands are narrower than a bin; each still takes its nearest one.
    nearest = np.abs(bins - corners[1:-1, None]) == np.abs(bins - corners[1:-1, None]).min(axis=1, keepdims=True)
    filters: NDArray[np.float64] = np.maximum(np.maximum(np.minimum(rising, falling), 0), nearest * 0.5)
    return filters
