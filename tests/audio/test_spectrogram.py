from __future__ import annotations

import io

import numpy as np
from PIL import Image

from acestep.audio.spectrogram import mel_levels_db, mel_picture, peaks

RATE = 44100


def test_a_higher_tone_is_drawn_higher() -> None:
    time = np.arange(RATE) / RATE
    low, high = (np.sin(2 * np.pi * frequency * time).astype(np.float32) for frequency in (300, 3000))
    bands = [mel_levels_db(tone, RATE, bands=96, columns=20)[:, 10].argmax() for tone in (low, high)]
    assert bands[0] < bands[1]


def test_the_picture_has_the_size_asked_for_and_shows_when_it_sounds() -> None:
    audio = np.zeros((2, 2 * RATE), np.float32)
    audio[:, RATE:] = 0.3 * np.random.default_rng(0).standard_normal((2, RATE)).astype(np.float32)
    picture = np.asarray(Image.open(io.BytesIO(mel_picture(audio, RATE, width=200, height=64))))
    assert picture.shape == (64, 200, 3)
    assert picture[:, 120:].mean() > 4 * picture[:, :80].mean()


def test_silence_can_be_drawn() -> None:
    assert mel_picture(np.zeros((2, RATE), np.float32), RATE, width=50, height=32).startswith(b"\x89PNG")


def test_peaks_hold_the_extremes_of_each_stretch() -> None:
    ramp = np.linspace(-1, 1, 1000, dtype=np.float32)[None]
    drawn = peaks(ramp, 10)
    assert drawn.shape == (10, 2)
    assert np.allclose(drawn[:, 0], ramp[0, ::100])
    assert drawn[-1, 1] == 1
    assert peaks(ramp[:, :3], 8).shape == (8, 2)
