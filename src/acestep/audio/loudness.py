"""How loud a recording is to the ear (ITU-R BS.1770-4, through pyloudnorm)."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pyloudnorm

from acestep.audio.streaming import Audio

_SHORTEST_S = 0.4
"""One gating block; what is shorter is measured with zeros after it."""


def loudness_lufs(audio: Audio, sample_rate: int) -> float:
    """Integrated loudness of (channels, samples); -inf for silence."""
    missing = math.ceil(_SHORTEST_S * sample_rate) - audio.shape[1]
    padded = np.pad(audio, ((0, 0), (0, max(missing, 0) + 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # silence divides by zero on its way to -inf
        return float(pyloudnorm.Meter(sample_rate).integrated_loudness(padded.T.astype(np.float64)))
