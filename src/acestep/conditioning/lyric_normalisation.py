"""A lyric line as the vocabulary expects it: lower case, numbers and signs as words, one alphabet, single spaces."""

from __future__ import annotations

import re

from acestep.conditioning.chinese_numbers import punctuation_to_commas
from acestep.conditioning.number_words import spell_numbers
from acestep.conditioning.romanisation import romanise
from acestep.conditioning.spoken_forms import expand_abbreviations, expand_signs

# Python lowercases the dotted capital I to two characters; Turkish has one.
_TURKISH_CAPITALS = str.maketrans("İÖÜ", "iöü")


def normalise_line(text: str, language: str) -> str:
    """The line, spelled for the language's part of the vocabulary; language is one of the tokeniser's codes."""
    if language == "ja":
        return romanise(text, language).lower()
    if language == "hi":
        return _single_spaces(text.lower())
    text = text.replace('"', "")
    if language == "tr":
        text = text.translate(_TURKISH_CAPITALS)
    text = spell_numbers(text.lower(), language)
    if language == "zh":
        text = punctuation_to_commas(text)
    text = expand_signs(expand_abbreviations(text, language), language)
    return romanise(" ".join(text.split()), language)


def _single_spaces(text: str) -> str:
    # Unlike split and join, this keeps a space at either end, as the released tokeniser did for Hindi.
    return re.sub(r"\s+", " ", text)
