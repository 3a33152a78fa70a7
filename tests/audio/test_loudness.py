from __future__ import annotations

import math

import numpy as np
import pytest

from acestep.audio.loudness import loudness_lufs

RATE = 48000
TONE = np.sin(2 * np.pi * 997 * np.arange(5 * RATE) / RATE).astype(np.float32)


def test_the_reference_tone_has_its_defined_loudness() -> None:
    # BS.1770-4: a 997 Hz sine at full scale in one channel of two measures -3.01 LUFS.
    one_sided = np.stack([TONE, np.zeros_like(TONE)])
    assert loudness_lufs(one_sided, RATE) == pytest.approx(-3.01, abs=0.05)


def test_silence_is_infinitely_quiet() -> None:
    assert loudness_lufs(np.zeros((2, RATE), np.float32), RATE) == -math.inf


def test_a_very_short_sound_is_measured() -> None:
    assert math.isfinite(loudness_lufs(np.stack([TONE[:4800], TONE[:4800]]), RATE))
