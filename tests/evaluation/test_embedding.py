from __future__ import annotations

import numpy as np
import pytest

from acestep.errors import InputError
from acestep.evaluation.embedding import CEPSTRA, DIMENSIONS, embed_windows, log_mel_frames
from evaluation.songs import RATE, clicks, coloured_noise


def test_a_song_gives_a_window_each_two_and_a_half_seconds() -> None:
    assert embed_windows(coloured_noise(0, seed=0, seconds=10.1), RATE).shape == (3, DIMENSIONS)
    assert embed_windows(coloured_noise(0, seed=0, seconds=2), RATE).shape == (1, DIMENSIONS)


def test_loudness_does_not_count() -> None:
    song = coloured_noise(-3, seed=0)
    np.testing.assert_allclose(embed_windows(song * 0.05, RATE), embed_windows(song, RATE), atol=1e-6)


def test_the_sample_rate_hardly_counts() -> None:
    soxr = pytest.importorskip("soxr")
    song = coloured_noise(-6, seed=0)
    slower = soxr.resample(song.T, RATE, 32000).T
    brighter = coloured_noise(-3, seed=0)
    same = np.abs(embed_windows(slower, 32000) - embed_windows(song, RATE)).mean()
    other = np.abs(embed_windows(brighter, RATE) - embed_windows(song, RATE)).mean()
    assert same < 0.2 * other


def test_a_tone_lies_in_its_band() -> None:
    time = np.arange(2 * RATE) / RATE
    peaks = [log_mel_frames(np.sin(2 * np.pi * hertz * time), RATE).mean(0).argmax() for hertz in (100, 1000, 8000)]
    assert peaks[0] < 4
    assert 10 < peaks[1] < 18
    assert peaks[2] > 32


def test_brightness_moves_the_first_cepstrum_and_not_the_rhythm() -> None:
    dark, bright = (embed_windows(coloured_noise(slope, seed=1), RATE).mean(0) for slope in (-6, 0))
    assert dark[0] - bright[0] > 1
    assert np.abs(dark[2 * CEPSTRA :] - bright[2 * CEPSTRA :]).max() < 0.5


def test_a_steady_pulse_is_clearer_than_a_loose_one() -> None:
    steady = embed_windows(clicks(120), RATE)[:, -1].mean()
    loose = embed_windows(clicks(120, jitter_s=0.4), RATE)[:, -1].mean()
    assert steady > 0.7
    assert loose < steady - 0.2


def test_silence_embeds_without_a_warning_or_a_nan() -> None:
    with np.errstate(all="raise"):
        assert np.isfinite(embed_windows(np.zeros((2, 3 * RATE)), RATE)).all()


@pytest.mark.parametrize(
    ("audio", "rate", "said"),
    [
        (np.full((2, RATE * 2), np.nan), RATE, "NaN"),
        (np.zeros((2, 100)), RATE, "too short"),
        (np.zeros((2, 40000)), 16000, "16000 Hz"),
    ],
)
def test_what_cannot_be_compared_is_refused(audio: np.ndarray, rate: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        embed_windows(audio, rate)
