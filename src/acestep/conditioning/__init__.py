"""Prompts and lyrics to tensors: the text encoder, the lyric tokeniser, language detection and normalisation.

What is listed here is imported when it is first asked for, since the text encoder needs torch (a second) and
reading lyrics does not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from acestep.conditioning.language_detection import detect_language, detect_languages
    from acestep.conditioning.lyric_normalisation import normalise_line
    from acestep.conditioning.lyric_tokenizer import LyricTokenizer
    from acestep.conditioning.text_encoder import TextEncoder
    from acestep.conditioning.vocabulary import find_vocabulary

__all__ = [
    "LyricTokenizer",
    "TextEncoder",
    "detect_language",
    "detect_languages",
    "find_vocabulary",
    "normalise_line",
]

_HOMES = {
    "LyricTokenizer": "lyric_tokenizer",
    "TextEncoder": "text_encoder",
    "detect_language": "language_detection",
    "detect_languages": "language_detection",
    "find_vocabulary": "vocabulary",
    "normalise_line": "lyric_normalisation",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
