"""Adherence of songs whose tempo and key are known."""

import json

import numpy as np
import pytest

from acestep.audio.key import MusicalKey
from acestep.errors import InputError
from acestep.evaluation.adherence import Heard, Kept, hear, key_kept, measure_adherence, tempo_kept
from evaluation.songs import RATE, clicks

C_MAJOR, A_MINOR, G_MAJOR = MusicalKey(0, "major"), MusicalKey(9, "minor"), MusicalKey(7, "major")
PROMPTS = [
    f"techno, {bpm} bpm, {key}" for bpm, key in ((90, "C major"), (107, "A minor"), (127, "G major"), (150, "E minor"))
]
RIGHT = [
    Heard(bpm, key)
    for bpm, key in ((90.0, C_MAJOR), (107.0, A_MINOR), (127.0, G_MAJOR), (150.0, MusicalKey(4, "minor")))
]


def kept(prompts: list[str], base: list[Heard], adapted: list[Heard]) -> dict[str, Kept]:
    return {part.key: part for part in measure_adherence(prompts, base, adapted).kept}


def test_songs_that_are_equal_lose_nothing() -> None:
    found = kept(PROMPTS, RIGHT, RIGHT)
    for part in found.values():
        assert part.base == part.adapted == 1.0
        assert part.change.value == part.change.low == part.change.high == 0.0
        assert not part.is_lost
        assert part.songs == 4
    assert found["tempo"].chance == 0.0
    assert found["key"].chance is not None
    assert found["key"].chance < 0.5


def test_an_adapter_that_plays_everything_at_one_tempo_and_key_loses_both() -> None:
    found = kept(PROMPTS, RIGHT, [Heard(200.0, MusicalKey(1, "minor"))] * 4)
    for part in found.values():
        assert part.adapted == 0.0
        assert part.is_lost
        assert part.change.value == -1.0


def test_seeds_of_a_prompt_count_once() -> None:
    wrong = Heard(None, None)
    doubled = kept([PROMPTS[0]] * 8 + [PROMPTS[1]], [RIGHT[0]] * 8 + [RIGHT[1]], [wrong] * 8 + [RIGHT[1]])
    assert doubled["tempo"].change.value == -0.5
    assert doubled["tempo"].change.count == 2
    assert not doubled["tempo"].is_lost


def test_prompts_that_name_nothing_have_no_say() -> None:
    found = measure_adherence(["calm piano", "92 bpm"], [Heard(None, None), Heard(92.0, None)], [Heard(None, None)] * 2)
    assert [part.key for part in found.kept] == ["tempo"]
    assert found.kept[0].songs == 1
    assert found.left_out == (("key in prompts", "no prompt names one key"),)
    json.dumps(found.as_dict(), allow_nan=False)


def test_half_double_and_ranges_count_as_kept_and_silence_does_not() -> None:
    asked = (120.0, 130.0)
    assert [tempo_kept(Heard(bpm, None), asked) for bpm in (125.0, 62.5, 250.0, 118.0, 100.0, None)] == [
        1,
        1,
        1,
        1,
        0,
        0,
    ]
    assert [key_kept(Heard(None, key), C_MAJOR) for key in (C_MAJOR, G_MAJOR, A_MINOR, None)] == [1, 0.5, 0.3, 0]


@pytest.mark.parametrize("bpm", [84.0, 126.0])
def test_the_tempo_of_clicks_is_heard(bpm: float) -> None:
    assert tempo_kept(hear(clicks(bpm, seconds=10.0), RATE), (bpm, bpm)) == 1.0


@pytest.mark.parametrize(
    "audio",
    [np.zeros((2, 5 * RATE)), np.full((2, 5 * RATE), np.nan), np.zeros((2, 100))],
    ids=["silence", "nan", "too short"],
)
def test_nothing_is_heard_in_what_is_no_music(audio: np.ndarray) -> None:
    assert hear(audio, RATE) == Heard(None, None)


def test_noise_has_no_tempo() -> None:
    assert hear(np.random.default_rng(0).normal(size=(1, 8 * RATE)), RATE).bpm is None


def test_lists_of_different_length_are_refused() -> None:
    with pytest.raises(InputError, match="4 prompts, 4 base songs and 3 songs"):
        measure_adherence(PROMPTS, RIGHT, RIGHT[:3])
