"""Copies are found with their passages; what is no copy is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from acestep.audio.files import read_audio, write_audio
from acestep.audio.fingerprint import fingerprint
from acestep.audio.fingerprint_index import FingerprintIndex, match
from acestep.audio.streaming import Audio
from acestep.datasets.synthesis import make_track
from acestep.errors import InputError

RATE = 44100
STYLES = ("jazz", "rock", "orchestral")
START_S = 9.37


@pytest.fixture(scope="module")
def tracks() -> dict[str, Audio]:
    return {style: make_track(style, seed=5, duration_s=22.0).audio for style in STYLES}


@pytest.fixture(scope="module")
def index(tracks: dict[str, Audio]) -> FingerprintIndex:
    made = FingerprintIndex()
    for name, audio in tracks.items():
        made.add(name, fingerprint(audio, RATE))
    return made


def excerpt(audio: Audio, start_s: float = START_S, duration_s: float = 10.0) -> Audio:
    first = int(start_s * RATE)
    return audio[:, first : first + int(duration_s * RATE)]


def filtered(audio: Audio, gain: object) -> Audio:
    spectrum = np.fft.rfft(audio)
    hertz = np.fft.rfftfreq(audio.shape[1], 1 / RATE)
    return np.fft.irfft(spectrum * gain(hertz), audio.shape[1]).astype(np.float32)  # type: ignore[operator]


def level(audio: Audio) -> float:
    return float(np.sqrt(np.square(audio).mean()))


def coded(audio: Audio, folder: Path, suffix: str) -> Audio:
    return read_audio(write_audio(folder / f"copy{suffix}", audio, RATE))


CHANGES = {
    "exact": lambda audio, _: audio,
    "louder": lambda audio, _: audio * np.float32(2.0),
    "much quieter": lambda audio, _: audio * np.float32(0.03),
    "low-passed at 2 kHz": lambda audio, _: filtered(audio, lambda hertz: 1 / np.sqrt(1 + (hertz / 2000) ** 8)),
    "treble raised by 6 dB": lambda audio, _: filtered(audio, lambda hertz: 1 + hertz / (hertz + 1500)),
    "noise 20 dB below": lambda audio, _: (
        audio + np.random.default_rng(0).normal(0, 0.1 * level(audio), audio.shape).astype(np.float32)
    ),
    "mp3": lambda audio, folder: coded(audio, folder, ".mp3"),
    "ogg": lambda audio, folder: coded(audio, folder, ".ogg"),
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_with_its_passage(
    change: str, style: str, tracks: dict[str, Audio], index: FingerprintIndex, tmp_path: Path
) -> None:
    found = index.search(fingerprint(CHANGES[change](excerpt(tracks[style]), tmp_path), RATE))[0]
    assert found.reference == style
    assert found.chance < 1e-20
    assert found.share > 0.3
    # Written music repeats itself, so another passage may be just as good: it must sound like this one.
    original = index[style].between(START_S, START_S + 10)
    there = index[style].between(found.reference_start_s, found.reference_end_s)
    again = match(original.between(found.start_s, found.end_s), there)
    assert again is not None
    assert again.share > 0.4
    assert found.end_s - found.start_s > 5


def test_five_seconds_inside_another_song_are_found_where_they_are(
    tracks: dict[str, Audio], index: FingerprintIndex
) -> None:
    song = make_track("folk", seed=9, duration_s=15.0).audio
    song[:, 6 * RATE : 11 * RATE] = excerpt(tracks["jazz"], 4.0, 5.0)
    found = index.search(fingerprint(song, RATE))[0]
    assert found.reference == "jazz"
    assert found.start_s == pytest.approx(6.0, abs=0.7)
    assert found.end_s == pytest.approx(11.0, abs=0.7)
    assert found.reference_start_s == pytest.approx(4.0, abs=0.7)
    assert found.offset_s == pytest.approx(-2.0, abs=0.05)


@pytest.mark.parametrize("style", STYLES)
def test_a_copy_six_decibels_under_another_song_is_found(
    style: str, tracks: dict[str, Audio], index: FingerprintIndex
) -> None:
    over = make_track("lofi", seed=9, duration_s=10.0).audio
    copy = excerpt(tracks[style])
    found = index.search(fingerprint(over + copy * np.float32(0.5 * level(over) / level(copy)), RATE))[0]
    assert found.reference == style
    assert found.chance < 1e-6


def test_shifted_by_ten_seconds_a_whole_recording_is_found_at_that_offset(tracks: dict[str, Audio]) -> None:
    whole = tracks["orchestral"]
    shifted = match(fingerprint(whole[:, 10 * RATE :] * np.float32(0.5), RATE), fingerprint(whole, RATE))
    assert shifted is not None
    assert shifted.offset_s == pytest.approx(10.0, abs=0.05)
    assert shifted.end_s - shifted.start_s > 10
    assert shifted.share > 0.5


def test_the_chance_of_unrelated_noise_is_what_it_says() -> None:
    """Ten pairs of noises, which have nothing to do with each other: not one in a thousand of them by chance."""
    generator = np.random.default_rng(3)
    prints = [fingerprint(generator.normal(0, 0.1, (1, 10 * RATE)).astype(np.float32), RATE) for _ in range(5)]
    chances = [
        found.chance if (found := match(left, right)) else np.inf
        for place, left in enumerate(prints)
        for right in prints[place + 1 :]
    ]
    assert len(chances) == 10
    assert min(chances) > 1e-2


def test_a_recording_passed_over_is_not_found(tracks: dict[str, Audio], index: FingerprintIndex) -> None:
    query = index["rock"].between(3.0, 13.0)
    assert index.search(query)[0].reference == "rock"
    others = index.search(query, best=4, without=["rock"])
    assert "rock" not in [found.reference for found in others]
    assert sorted((found.score for found in others), reverse=True) == [found.score for found in others]


def test_silence_is_like_nothing(index: FingerprintIndex) -> None:
    silence = fingerprint(np.zeros((2, 5 * RATE), np.float32), RATE)
    assert index.search(silence) == []
    assert match(silence, silence) is None
    assert FingerprintIndex().search(index["rock"]) == []
    full_of_silence = FingerprintIndex()
    full_of_silence.add("silence", silence)
    assert full_of_silence.search(index["rock"]) == []


def test_one_tone_everywhere_costs_no_more_than_music() -> None:
    """A clock that ticks for ten minutes has the same landmarks in every second: some are left out, not all counted."""
    tick = np.zeros((1, RATE // 2), np.float32)
    tick[0, :2000] = np.sin(np.arange(2000) * 0.2) * np.hanning(2000)
    clock = fingerprint([np.tile(tick, 20)] * 60, RATE)
    many = FingerprintIndex()
    for number in range(4):
        many.add(number, clock)
    assert many.search(clock, best=4)


def test_a_name_is_given_once(index: FingerprintIndex) -> None:
    with pytest.raises(InputError, match="'rock' already"):
        index.add("rock", index["jazz"])
