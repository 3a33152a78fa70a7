"""Resampling exactly as the released v1 pipeline does it; for ordinary use `files.resample` is better and faster."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_ZERO_CROSSINGS = 6
_ROLLOFF = 0.99


def resample_sinc(audio: NDArray[np.float32], from_rate: int, to_rate: int) -> NDArray[np.float32]:
    """A sinc under a squared cosine, 6 zero crossings wide, cut off at 0.99 of the lower Nyquist rate.

    audio: (..., samples) -> (..., ceil(samples * to_rate / from_rate)) float32. These are torchaudio's defaults, from
    the reference README, section 7; equal rates give the audio back.
    """
    common = math.gcd(from_rate, to_rate)
    step, phases = from_rate // common, to_rate // common
    if step == phases:
        return audio
    kernels, width = sinc_kernels(step, phases)
    samples = audio.shape[-1]
    padding = [(0, 0)] * (audio.ndim - 1) + [(width, width + step)]
    padded = np.pad(audio.astype(np.float32, copy=False), padding)
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernels.shape[-1], axis=-1)[..., ::step, :]
    resampled = (windows @ kernels.T).reshape(*audio.shape[:-1], -1)
    return np.ascontiguousarray(resampled[..., : math.ceil(phases * samples / step)])


def sinc_kernels(step: int, phases: int) -> tuple[NDArray[np.float32], int]:
    """One kernel for each of the `phases` positions between two input samples, and its reach to the left in samples.

    -> (phases, 2 width + step), width
    """
    base = min(step, phases) * _ROLLOFF
    width = math.ceil(_ZERO_CROSSINGS * step / base)
    # The quotient of phases is rounded to float32 before anything else, as upstream does.
    shifts = (np.arange(0, -phases, -1, dtype=np.float32) / np.float32(phases)).astype(np.float64)
    times = (np.arange(-width, width + step, dtype=np.float64) / step + shifts[:, np.newaxis]) * base
    times = times.clip(-_ZERO_CROSSINGS, _ZERO_CROSSINGS)
    window = np.cos(times * math.pi / _ZERO_CROSSINGS / 2) ** 2
    return (np.sinc(times) * window * (base / step)).astype(np.float32), width
