"""Chinese, Japanese and Korean in Latin letters, as the lyric vocabulary spells them.

Each of the three packages carries a dictionary (UniDic is 250 MB on disk and takes 60 ms to open; pypinyin takes 180 ms
to import), so each is imported only when its language is sung: English lyrics never pay for them.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any

# MeCab's tagger keeps the sentence it works on, so two threads must not share a call.
_japanese_lock = threading.Lock()


def romanise(text: str, language: str) -> str:
    """The text in Latin letters; a language other than these three passes through.

    zh: pinyin with tone digits, 5 for the neutral tone, unspaced. ja: Hepburn, words apart. ko: academic, syllables
    joined by hyphens.
    """
    if language == "zh":
        return _to_pinyin(text)
    if language == "ja":
        with _japanese_lock:
            return str(_japanese().romaji(text))
    if language == "ko":
        return str(_korean().translit(text))
    return text


def _to_pinyin(text: str) -> str:
    from pypinyin import Style, pinyin

    syllables = pinyin(text, style=Style.TONE3, heteronym=False, neutral_tone_with_five=True)
    return "".join(readings[0] for readings in syllables)


@lru_cache(maxsize=1)
def _japanese() -> Any:
    from cutlet import Cutlet

    return Cutlet()


@lru_cache(maxsize=1)
def _korean() -> Any:
    from hangul_romanize import Transliter
    from hangul_romanize.rule import academic

    return Transliter(academic)
