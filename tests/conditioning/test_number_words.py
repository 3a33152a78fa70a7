from __future__ import annotations

import pytest

from acestep.conditioning.number_words import spell_numbers


@pytest.mark.parametrize(
    ("written", "language", "spoken"),
    [
        ("1,234 miles", "en", "one thousand, two hundred and thirty-four miles"),
        ("$20 and £3.50", "en", "twenty dollars and three pounds sterling, fifty pence"),
        ("the 3rd", "en", "the third"),
        ("2.5", "en", "two point five"),
        ("1.000 mal", "de", "eintausend mal"),
        ("am 3. tag", "de", "am dritte tag"),
        ("le 2e jour", "fr", "le deuxième jour"),
        ("20€", "es", "veinte euros"),
        ("5-й", "ru", "пятый"),
        ("12,5 saniye", "tr", "oniki,beş saniye"),
    ],
)
def test_numbers_are_spoken(written: str, language: str, spoken: str):
    assert spell_numbers(written, language) == spoken


@pytest.mark.parametrize("language", ["cs", "ja", "hi"])
def test_numbers_stay_where_the_released_model_never_heard_them(language: str):
    assert spell_numbers("50 vojáků", language) == "50 vojáků"


def test_a_number_that_cannot_be_spelled_leaves_the_whole_text_as_it_was():
    huge = "9" * 400
    assert spell_numbers(f"5 and {huge}", "en") == f"5 and {huge}"


def test_an_amount_that_is_no_number_does_not_stop_the_others():
    assert spell_numbers("$1.2.3 and 4", "fr").endswith("and quatre")
