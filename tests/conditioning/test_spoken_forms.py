from __future__ import annotations

import pytest

from acestep.conditioning.spoken_forms import expand_abbreviations, expand_signs


@pytest.mark.parametrize(
    ("written", "language", "spoken"),
    [
        ("mr. and mrs. smith", "en", "mister and misess smith"),
        ("drs. at st. mary", "en", "doctors at saint mary"),
        ("la sra. lópez", "es", "la señora lópez"),
        ("г-жа петрова", "ru", "госпожа петрова"),
        ("dr. no", "ja", "dr. no"),
        ("first. best", "en", "first. best"),
    ],
)
def test_abbreviations_are_written_out_as_whole_words(written: str, language: str, spoken: str):
    assert expand_abbreviations(written, language) == spoken


@pytest.mark.parametrize(
    "language", ["en", "de", "fr", "es", "it", "pt", "pl", "tr", "ru", "cs", "nl", "ar", "hu", "ko"]
)
def test_no_sign_is_left_in_a_language_that_names_them(language: str):
    spoken = expand_signs("&@%#$£°", language)
    assert not set("&@%#$£°") & set(spoken)
    assert len(spoken.split()) >= 7


def test_signs_stay_in_a_language_that_does_not_name_them():
    assert expand_signs("50%", "hi") == "50%"
