"""Digits as words: amounts of money, decimals, ordinals and plain numbers, in the languages num2words speaks.

The lyric vocabulary was trained on text whose numbers were spelled by num2words after these rules, so the words,
their order and even their slips (French "1ère" becomes "unère") are part of the released model. The rules are known
from its published tokeniser and fixed by the goldens in tests/reference/lyrics.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from acestep.conditioning.chinese_numbers import spell_chinese_numbers

_Spell = Callable[..., str]

# What follows a number and makes it an ordinal. Alternatives are tried in this order, as the released model did.
_ORDINAL_ENDINGS = {
    "en": "st|nd|rd|th",
    "es": "º|ª|er|o|a",
    "fr": "º|ª|er|re|e|ème",
    "de": r"st|nd|rd|th|º|ª|\.(?=\s|$)",
    "pt": "º|ª|o|a",
    "it": "º|°|ª|o|a|i|e",
    "pl": "º|ª|st|nd|rd|th",
    "ar": "ون|ين|ث|ر|ى",
    "ru": "-й|-я|-е|-ое|-ье|-го",
    "nl": "de|ste|e",
    "tr": r"\.|inci|nci|uncu|üncü",
    "hu": r"\.|adik|edik|odik|ödik|ik",
    "ko": "번째|번|차|째",
}

# What num2words puts between whole units and cents; a whole amount is cut there, so "zero cents" is not sung.
_BEFORE_CENTS = {"es": " con ", "fr": " et ", "de": " und ", "pt": " e ", "it": " e "}
_CURRENCIES = (("£", "GBP"), (r"\$", "USD"), ("€", "EUR"))

# A run of digits is entered only at its start: without the look-behind each of its digits would be tried in turn,
# which is quadratic on a line of nothing but digits.
_GROUPED_BY_COMMA = re.compile(r"\b\d{1,3}(?:,\d{3})*(?:\.\d+)?\b")
_GROUPED_BY_DOT = re.compile(r"\b\d{1,3}(?:.\d{3})*(?:,\d+)?\b")  # any separator may group; only dots are removed
_DECIMAL = re.compile(r"(?<![0-9])[0-9]+[.,][0-9]+")
_NUMBER = re.compile(r"[0-9]+")


def spell_numbers(text: str, language: str) -> str:
    """The text with its digits as words of that language; text and result are lower case lyrics.

    Where a number cannot be spelled, the whole text keeps its digits: so did the text that the model was trained on.
    Czech numbers are never spelled, because the released tokeniser asked num2words for a language code that it does
    not know, and the model never saw Czech number words.
    """
    if not re.search(r"\d", text):
        return text
    if language == "zh":
        return spell_chinese_numbers(text)
    if language not in _ORDINAL_ENDINGS:
        return text
    # Imported here because most lyrics hold no digit at all.
    from num2words import num2words

    try:
        return _spell_all(text, language, num2words)
    except Exception:
        # num2words reports a number or a form that it does not speak by exceptions of a dozen unrelated classes.
        return text


def _spell_all(text: str, language: str, spell: _Spell) -> str:
    if language in ("en", "ru"):
        text = _GROUPED_BY_COMMA.sub(lambda match: match[0].replace(",", ""), text)
    else:
        text = _GROUPED_BY_DOT.sub(lambda match: match[0].replace(".", ""), text)
    text = _spell_money(text, language, spell)
    if language != "tr":
        text = _DECIMAL.sub(lambda match: spell(float(match[0].replace(",", ".")), lang=language), text)
    ordinal = re.compile(f"(?<![0-9])([0-9]+)(?:{_ORDINAL_ENDINGS[language]})")
    text = ordinal.sub(lambda match: spell(int(match[1]), ordinal=True, lang=language), text)
    return _NUMBER.sub(lambda match: spell(int(match[0]), lang=language), text)


def _spell_money(text: str, language: str, spell: _Spell) -> str:
    for sign, currency in _CURRENCIES:
        spell_amount = partial(_spell_amount, currency=currency, language=language, spell=spell)
        try:
            text = re.sub(rf"{sign}[0-9.,]*[0-9]|(?<![0-9.,])[0-9.,]*[0-9]{sign}", spell_amount, text)
        except Exception:
            # As above; but a currency that fails leaves the plain numbers to the rules that follow.
            return text
    return text


def _spell_amount(match: re.Match[str], *, currency: str, language: str, spell: _Spell) -> str:
    amount = float(re.sub(r"[^\d.]", "", match[0].replace(",", ".")))
    words = spell(amount, to="currency", currency=currency, lang=language)
    if amount.is_integer():
        words = words.rpartition(_BEFORE_CENTS.get(language, ", "))[0] or words
    return words
