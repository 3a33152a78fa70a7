"""How loud a recording is to the ear, and bringing recordings to one loudness (ITU-R BS.1770-4, through pyloudnorm)."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pyloudnorm

from acestep.audio.files import Audio

_SHORTEST_S = 0.4
"""One gating block; what is shorter is measured with zeros after it."""


def loudness_lufs(audio: Audio, sample_rate: int) -> float:
    """Integrated loudness of (channels, samples); -inf for silence."""
    missing = math.ceil(_SHORTEST_S * sample_rate) - audio.shape[1]
    padded = np.pad(audio, ((0, 0), (0, max(missing, 0) + 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # silence divides by zero on its way to -inf
        return float(pyloudnorm.Meter(sample_rate).integrated_loudness(padded.T.astype(np.float64)))


def normalise_loudness(audio: Audio, sample_rate: int, *, target_lufs: float = -16.0, peak: float = 0.99) -> Audio:
    """The same recording at `target_lufs`, less where its loudest sample would pass `peak`; silence stays as it is."""
    measured = loudness_lufs(audio, sample_rate)
    if not math.isfinite(measured):
        return audio
    gain = 10 ** ((target_lufs - measured) / 20)
    loudest = float(np.abs(audio).max())
    return (audio * min(gain, peak / loudest)).astype(np.float32)
