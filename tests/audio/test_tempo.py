"""Tempos of music whose tempo is known because the test made it."""

import numpy as np
import pytest
from numpy.typing import NDArray

from acestep.audio.tempo import estimate_tempo, same_tempo
from acestep.datasets.synthesis import make_track

RATE = 22050


def drums(bpm: float, *, seconds: float = 12.0, jitter_s: float = 0.0, seed: int = 0) -> NDArray[np.float64]:
    """A kick on every beat and a softer hat between, over quiet noise; (samples,)."""
    generator = np.random.default_rng(seed)
    song = 0.001 * generator.normal(size=int(seconds * RATE))
    time = np.arange(int(0.15 * RATE)) / RATE
    kick = np.sin(2 * np.pi * 60 * time) * np.exp(-time / 0.04)
    hat = 0.2 * generator.normal(size=time.size) * np.exp(-time / 0.01)
    for number, start_s in enumerate(np.arange(0, seconds - 0.3, 30 / bpm)):
        start = int((start_s + jitter_s * generator.random()) * RATE)
        song[start : start + time.size] += hat if number % 2 else kick
    return song


@pytest.mark.parametrize("bpm", [64.0, 77.5, 92.0, 110.0, 128.0, 141.3, 174.0])
def test_a_drum_loop_is_found_within_half_a_percent(bpm: float) -> None:
    tempo = estimate_tempo(drums(bpm), RATE)
    assert tempo is not None
    assert same_tempo(tempo.bpm, bpm, tolerance=0.005)
    if 77 < bpm < 150:
        assert tempo.bpm == pytest.approx(bpm, rel=0.005)


@pytest.mark.parametrize("style", ["jazz", "gamelan waltz"])
def test_the_tempo_of_made_music_is_found(style: str) -> None:
    track = make_track(style, seed=41, duration_s=12.0)
    tempo = estimate_tempo(track.audio, 44100)
    assert tempo is not None
    assert same_tempo(tempo.bpm, track.bpm, tolerance=0.02)


def test_clarity_falls_from_a_machine_to_a_shaky_hand_to_noise() -> None:
    noise = np.random.default_rng(1).normal(size=12 * RATE)
    songs = (drums(100.0), drums(100.0, jitter_s=0.08), noise)
    tempos = [estimate_tempo(song, RATE) for song in songs]
    steady, shaky, none = (tempo.clarity if tempo is not None else 0.0 for tempo in tempos)
    assert steady > 0.5 > shaky > none
    assert none < 0.1


def test_neither_level_nor_channels_nor_rate_change_the_tempo() -> None:
    song = drums(96.0)
    one = estimate_tempo(song, RATE)
    two = estimate_tempo(0.01 * np.stack([song, song]).astype(np.float32), RATE)
    half = estimate_tempo(song.reshape(-1, 2).mean(1), RATE // 2)
    assert one is not None
    assert two is not None
    assert half is not None
    assert two.bpm == pytest.approx(one.bpm, rel=1e-3)
    assert half.bpm == pytest.approx(one.bpm, rel=5e-3)


@pytest.mark.parametrize(
    "audio",
    [np.zeros((2, 10 * RATE)), np.ones(10 * RATE), np.full(10 * RATE, np.nan), drums(100.0)[: 2 * RATE], np.zeros(0)],
    ids=["silence", "constant", "nan", "two seconds", "empty"],
)
def test_what_has_no_tempo_has_none(audio: NDArray[np.float64]) -> None:
    assert estimate_tempo(audio, RATE) is None


def test_half_and_double_count_as_the_same_and_a_third_does_not() -> None:
    assert same_tempo(60.0, 120.0)
    assert same_tempo(121.0, 60.0)
    assert same_tempo(119.0, 120.0)
    assert not same_tempo(80.0, 120.0)
    assert not same_tempo(126.0, 120.0)
