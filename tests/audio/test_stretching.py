import sys
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from acestep.audio.streaming import Audio
from acestep.audio.stretching import stretch
from acestep.errors import InputError

RATE = 44100


def tone(frequency: float, duration_s: float, *, phase: float = 0.0) -> np.ndarray:
    time = np.arange(round(duration_s * RATE)) / RATE
    return (0.4 * np.sin(2 * np.pi * frequency * time + phase)).astype(np.float32)


def stretched(audio: Audio, *, block: int = RATE, **options: float) -> Audio:
    blocks = [audio[:, start : start + block] for start in range(0, audio.shape[1], block)]
    return np.concatenate(list(stretch(blocks, RATE, **options)), axis=1)


def loudest_frequency(mono: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(mono * np.hanning(len(mono)), n=8 * len(mono)))
    return float(spectrum.argmax()) * RATE / (8 * len(mono))


@pytest.mark.parametrize("semitones", [-2, -1, 1, 2])
def test_a_tone_moves_by_the_semitones_and_keeps_its_length(semitones: int):
    audio = np.stack([tone(440, 2)] * 2)
    moved = stretched(audio, semitones=semitones)
    assert moved.shape == audio.shape
    cents = 1200 * np.log2(loudest_frequency(moved[0, RATE // 2 : -RATE // 2]) / 440)
    assert cents == pytest.approx(100 * semitones, abs=6)


@pytest.mark.parametrize("tempo", [0.9, 1.07])
def test_clicks_come_closer_by_the_tempo_and_a_tone_keeps_its_pitch(tempo: float):
    clicks = np.zeros((2, 4 * RATE), np.float32)
    clicks[:, RATE // 2 :: RATE // 2] = 0.9
    faster = stretched(clicks, tempo=tempo)
    expected = np.arange(1, 8) * RATE / 2 / tempo
    found = [int(place) - 2000 + int(np.abs(window).argmax()) for place, window in around(faster[0], expected)]
    gaps = [later - earlier for earlier, later in pairwise(found)]
    assert np.mean(gaps) == pytest.approx(RATE / 2 / tempo, abs=RATE * 0.001)
    slower = stretched(np.stack([tone(440, 2)] * 2), tempo=tempo)
    assert loudest_frequency(slower[0, RATE // 2 : -RATE // 2]) == pytest.approx(440, rel=0.003)


def around(mono: np.ndarray, places: np.ndarray) -> Iterator[tuple[float, np.ndarray]]:
    for place in places:
        yield place, mono[int(place) - 2000 : int(place) + 2000]


@pytest.mark.parametrize("samples", [1, 700, RATE, 7 * RATE + 3])
@pytest.mark.parametrize("tempo", [0.93, 1.1])
def test_the_length_is_exact_in_pieces_too(samples: int, tempo: float):
    audio = np.full((2, samples), 0.1, np.float32)
    assert stretched(audio, tempo=tempo, piece_s=2.0).shape == (2, round(samples / tempo))


def test_channels_keep_their_phase_and_level_to_each_other():
    audio = np.stack([tone(300, 2), 0.5 * tone(300, 2, phase=1.0)])
    moved = stretched(audio, semitones=2, tempo=0.95)[:, RATE // 2 : -RATE // 2]
    left, right = (np.fft.rfft(channel * np.hanning(moved.shape[1])) for channel in moved)
    peak = int(np.abs(left).argmax())
    assert np.angle(right[peak] / left[peak]) == pytest.approx(1.0, abs=0.01)
    assert np.abs(right[peak] / left[peak]) == pytest.approx(0.5, abs=0.01)
    twins = stretched(np.stack([tone(300, 1)] * 2), semitones=1)
    # The library adds noise of its own to bins without sound, so equal channels differ by about -70 dB.
    np.testing.assert_allclose(twins[0], twins[1], atol=4e-4)


def test_silence_stays_silence():
    assert not stretched(np.zeros((2, 5 * RATE), np.float32), semitones=1, tempo=1.05, piece_s=2.0).any()


def test_pieces_join_without_a_dip_or_a_click():
    generator = np.random.default_rng(0)
    noise = generator.uniform(-0.3, 0.3, (2, 12 * RATE)).astype(np.float32)
    for audio in (noise, np.stack([tone(440, 12)] * 2)):
        joined = stretched(audio, semitones=1, tempo=0.95, piece_s=3.0)[:, RATE:-RATE]
        levels = np.sqrt(np.square(joined[0][: len(joined[0]) // 2205 * 2205]).reshape(-1, 2205).mean(axis=1))
        assert levels.min() > 0.75 * np.median(levels)
        assert levels.max() < 1.25 * np.median(levels)
    smooth = np.abs(np.diff(joined[0])).max()  # of the tone: a click would jump
    assert smooth < 2 * 0.4 * 2 * np.pi * 440 * 2 ** (1 / 12) / RATE


def test_blocks_may_have_any_size_and_equal_input_gives_equal_output():
    audio = np.random.default_rng(0).uniform(-0.3, 0.3, (2, 5 * RATE)).astype(np.float32)
    whole = stretched(audio, semitones=-1, tempo=1.05, piece_s=1.5)
    np.testing.assert_array_equal(stretched(audio, semitones=-1, tempo=1.05, piece_s=1.5, block=7777), whole)


def test_what_is_not_changed_comes_through_untouched():
    audio = np.random.default_rng(0).uniform(-1, 1, (2, 1000)).astype(np.float32)
    np.testing.assert_array_equal(stretched(audio), audio)
    assert list(stretch([], RATE, semitones=1)) == []


def test_no_more_than_two_pieces_are_read_ahead():
    read = 0

    def endless() -> Iterator[Audio]:
        nonlocal read
        while True:
            read += RATE
            yield np.zeros((2, RATE), np.float32)

    blocks = stretch(endless(), RATE, semitones=1, piece_s=2.0)
    for count in range(1, 6):
        next(blocks)
        assert read <= (count + 2) * 2 * RATE + RATE


@pytest.mark.parametrize("options", [{"semitones": 30}, {"semitones": float("nan")}, {"tempo": 0}, {"tempo": -1.0}])
def test_impossible_changes_say_what_is_possible(options: dict[str, float]):
    with pytest.raises(InputError, match="expected at most 24 semitones"):
        stretched(np.zeros((2, 100), np.float32), **options)


def test_without_the_library_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "python_stretch", None)
    with pytest.raises(InputError, match="pip install python-stretch"):
        stretched(np.zeros((2, 100), np.float32), semitones=1)
