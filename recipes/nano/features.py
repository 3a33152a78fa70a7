"""The log-mel and the sizes that all stages share."""

from __future__ import annotations

from functools import lru_cache

from torch import Tensor

from acestep.models.v1.log_mel import LogMel

SAMPLE_RATE = 44100
HOP = 512
FRAMES_PER_LATENT = 8
LATENT_FRAME_S = HOP * FRAMES_PER_LATENT / SAMPLE_RATE


@lru_cache(maxsize=1)
def _transform() -> LogMel:
    return LogMel()


def log_mel(audio: Tensor) -> Tensor:
    """(..., samples) float32 -> (..., 128, samples // 512) natural-log mel, as the v1 autoencoder takes it."""
    mel: Tensor = _transform().to(audio.device)(audio)
    return mel
