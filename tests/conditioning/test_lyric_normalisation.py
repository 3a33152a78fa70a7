from __future__ import annotations

import pytest

from acestep.conditioning.lyric_normalisation import normalise_line
from acestep.conditioning.lyric_tokenizer import LANGUAGES
from reference_data import load_json


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_golden_line_is_spelled_as_the_released_tokeniser_spells_it(language: str):
    for golden in load_json("lyrics/encode_goldens.json"):
        if golden["lang"] == language:
            assert normalise_line(golden["line"], language) == golden["preprocessed"]


def test_a_normalised_line_is_left_alone():
    for golden in load_json("lyrics/encode_goldens.json"):
        if golden["lang"] in ("en", "fr", "ru"):
            assert normalise_line(golden["preprocessed"], golden["lang"]) == golden["preprocessed"]


def test_turkish_capitals_keep_their_dots():
    assert normalise_line("İ Ö Ü", "tr") == "i ö ü"


def test_hindi_keeps_a_space_at_either_end():
    assert normalise_line("  a\t b ", "hi") == " a b "
