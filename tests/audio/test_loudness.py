from __future__ import annotations

import math

import numpy as np
import pytest

from acestep.audio.loudness import loudness_lufs, normalise_loudness

RATE = 48000
TONE = np.sin(2 * np.pi * 997 * np.arange(5 * RATE) / RATE).astype(np.float32)


def test_the_reference_tone_has_its_defined_loudness() -> None:
    # BS.1770-4: a 997 Hz sine at full scale in one channel of two measures -3.01 LUFS.
    one_sided = np.stack([TONE, np.zeros_like(TONE)])
    assert loudness_lufs(one_sided, RATE) == pytest.approx(-3.01, abs=0.05)


def test_silence_is_infinitely_quiet_and_stays_silent() -> None:
    silence = np.zeros((2, RATE), np.float32)
    assert loudness_lufs(silence, RATE) == -math.inf
    assert np.array_equal(normalise_loudness(silence, RATE), silence)


def test_a_very_short_sound_is_measured() -> None:
    assert math.isfinite(loudness_lufs(np.stack([TONE[:4800], TONE[:4800]]), RATE))


def test_quiet_and_loud_come_to_one_loudness() -> None:
    stereo = np.stack([TONE, TONE])
    for level in (0.01, 0.3):
        assert loudness_lufs(normalise_loudness(level * stereo, RATE), RATE) == pytest.approx(-16, abs=0.1)


def test_peaks_are_not_clipped_for_loudness() -> None:
    clicks = np.zeros((2, 2 * RATE), np.float32)
    clicks[:, ::4800] = 0.5
    assert np.abs(normalise_loudness(clicks, RATE, target_lufs=0.0)).max() <= 0.99
