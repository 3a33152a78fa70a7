"""Keys of music whose key is known because the test made it."""

import numpy as np
import pytest
from numpy.typing import NDArray

from acestep.audio.key import HeardKey, MusicalKey, estimate_key, key_score
from acestep.datasets.musical_terms import named_key
from acestep.datasets.synthesis import make_track

RATE = 22050
DEGREES = {
    "major": ((0, 4, 7), (5, 9, 0), (7, 11, 2), (0, 4, 7)),
    "minor": ((0, 3, 7), (5, 8, 0), (7, 10, 2), (0, 3, 7)),
}


def cadence(key: MusicalKey, *, cents: float = 0.0) -> NDArray[np.float64]:
    """Tonic, subdominant, dominant, tonic in plucked tones with a few partials; (samples,)."""
    time = np.arange(RATE) / RATE
    chords = []
    for chord in DEGREES[key.mode]:
        tones = [48 + (key.tonic + chord[0]) % 12, *(60 + (key.tonic + note) % 12 for note in chord)]
        hertz = [440 * 2 ** ((note - 69) / 12 + cents / 1200) for note in tones]
        chords.append(
            sum(np.sin(2 * np.pi * f * partial * time) / partial for f in hertz for partial in (1, 2, 3))
            * np.exp(-time / 0.6)
        )
    return 0.05 * np.concatenate(chords)


def heard(audio: NDArray[np.floating], rate: int = RATE) -> HeardKey:
    found = estimate_key(audio, rate)
    assert found is not None
    return found


@pytest.mark.parametrize("mode", ["major", "minor"])
@pytest.mark.parametrize("tonic", range(12))
def test_a_cadence_is_in_its_key(tonic: int, mode: str) -> None:
    key = MusicalKey(tonic, mode)
    assert heard(cadence(key)).key == key


@pytest.mark.parametrize("cents", [-35.0, 20.0, 40.0])
def test_a_recording_that_is_out_of_tune_keeps_its_key(cents: float) -> None:
    key = MusicalKey(2, "minor")
    found = heard(cadence(key, cents=cents))
    assert found.key == key
    assert found.tuning_cents == pytest.approx(cents, abs=6)


def test_drums_over_it_do_not_hide_the_key() -> None:
    key, generator = MusicalKey(7, "major"), np.random.default_rng(0)
    song = cadence(key)
    for start in range(0, len(song), RATE // 2):
        song[start : start + 3000] += 0.3 * generator.normal(size=3000) * np.exp(-np.arange(3000) / 600)
    assert heard(song).key == key


@pytest.mark.parametrize("style", ["house", "folk"])
def test_the_key_of_made_music_is_found_or_a_near_one(style: str) -> None:
    track = make_track(style, seed=41, duration_s=12.0)
    asked = named_key(track.key)
    assert asked is not None
    assert key_score(heard(track.audio, 44100).key, asked) >= 0.3


def test_a_scale_of_noise_fits_no_key_well() -> None:
    noise = np.random.default_rng(3).normal(size=8 * RATE)
    assert heard(noise).fit < 0.6 < heard(cadence(MusicalKey(0, "major"))).fit


@pytest.mark.parametrize(
    "audio",
    [np.zeros((2, 4 * RATE)), np.full(4 * RATE, np.nan), np.zeros(0), cadence(MusicalKey(0, "major"))[: RATE // 2]],
    ids=["silence", "nan", "empty", "half a second"],
)
def test_what_has_no_key_has_none(audio: NDArray[np.float64]) -> None:
    assert estimate_key(audio, RATE) is None


def test_relative_keys_are_each_other_s() -> None:
    assert MusicalKey(0, "major").relative == MusicalKey(9, "minor")
    for tonic in range(12):
        for mode in ("major", "minor"):
            key = MusicalKey(tonic, mode)
            assert key.relative.relative == key
            assert key.relative.mode != mode


def test_scores_are_those_of_the_contest() -> None:
    c_major = MusicalKey(0, "major")
    others = {"C major": 1.0, "G major": 0.5, "F major": 0.5, "A minor": 0.3, "C minor": 0.2, "E minor": 0.0}
    for name, score in others.items():
        found = named_key(name)
        assert found is not None
        assert found.name == name
        assert key_score(found, c_major) == score
