"""Lyrics to the token ids that a model's lyric encoder reads.

A vocabulary is a BPE in the Hugging Face tokenizers format with a token per language ("[en]", "[zh-cn]"), "[START]",
"[SPACE]", "[UNK]" and tags for a song's parts ("[verse]"). Ids are looked up by these names, so any vocabulary built
so serves; in the released v1 vocabulary [START] is 261, [SPACE] 2, [UNK] 1 and [STOP] 0. A line is its language's
token, then its text with every space as "[SPACE]"; the same "[SPACE]" ends it.

The ids of the released model are fixed by tests/reference/lyrics. The first line to be detected costs 140 ms, a
Chinese one 180 ms more and a Japanese one 90 ms more, for their dictionaries; after that a line takes about 0.1 ms.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from tokenizers import Tokenizer

from acestep.conditioning.language_detection import detect_language, detect_languages
from acestep.conditioning.lyric_normalisation import normalise_line
from acestep.errors import CheckpointError, InputError

LANGUAGES = ("en", "de", "fr", "es", "it", "pt", "pl", "tr", "ru", "cs", "nl", "ar", "zh", "ja", "hu", "ko", "hi")
"""Languages with rules of their own; a vocabulary serves those it has a token for."""

MAX_LYRIC_TOKENS = 4096
"""The longest lyric the v1 model was trained on."""

_FALLBACK = "en"
_START, _SPACE, _UNKNOWN, _STOP = "[START]", "[SPACE]", "[UNK]", "[STOP]"
_STRUCTURE_LINE = re.compile(r"\[.*?\]")
_STRUCTURE_TAG = re.compile(r"\[[a-z][a-z-]+\]")


class LyricTokenizer:
    """Turns lyrics into token ids; holds no state but the vocabulary, so one serves all threads."""

    def __init__(self, vocab_path: Path, *, max_tokens: int = MAX_LYRIC_TOKENS) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(vocab_path))
        except Exception as error:  # tokenizers raises bare Exception for whatever is wrong with the file
            raise CheckpointError(f"{vocab_path} is not a lyric vocabulary (tokenizers JSON): {error}") from error
        self.max_tokens = max_tokens
        self._ids: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        missing = [name for name in (_START, _SPACE, _UNKNOWN, _language_token(_FALLBACK)) if name not in self._ids]
        if missing:
            raise CheckpointError(f"{vocab_path} lacks the tokens {', '.join(missing)}, which every lyric needs")
        self.languages = tuple(code for code in LANGUAGES if _language_token(code) in self._ids)
        self._max_characters = max_tokens * max(len(token) for token in self._ids)

    @property
    def vocabulary_size(self) -> int:
        """One more than the largest id: the rows that the lyric encoder's embedding must have at least."""
        return max(self._ids.values()) + 1

    def fingerprint(self) -> str:
        """sha256 of the vocabulary."""
        return hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()

    @property
    def structure_tags(self) -> tuple[str, ...]:
        """Tags that are one token each, such as "[verse]", by id; any other bracketed word is spelled like a word."""
        languages = {_language_token(code) for code in LANGUAGES}
        tags = [token for token in self._ids if _STRUCTURE_TAG.fullmatch(token) and token not in languages]
        return tuple(sorted(tags, key=self._ids.__getitem__))

    def encode_line(self, text: str, language: str) -> list[int]:
        """Ids of one line sung in a given language (one of languages; a region such as zh-cn is ignored)."""
        code = language.partition("-")[0]
        if code not in self.languages:
            known = ", ".join(self.languages)
            raise InputError(f"language {language!r} is not in this lyric vocabulary; choose one of {known}")
        # A lone surrogate is not text; it can reach us through JSON.
        text = text.encode("utf-8", "ignore").decode("utf-8")
        spelled = _language_token(code) + normalise_line(text, code)
        return list(self._tokenizer.encode(spelled.replace(" ", _SPACE)).ids)

    def encode(self, lyrics: str) -> list[int]:
        """Ids as the model reads them when it sings: each line in its own detected language."""
        self._check_characters(lyrics)
        space = self._ids[_SPACE]
        ids = [self._ids[_START]]
        for line in lyrics.split("\n"):
            line = line.strip()
            if line:
                ids += self.encode_line(line, self._sung_language(line))
            ids.append(space)
        return self._check_tokens(ids)

    def encode_for_training(self, lyrics: str) -> list[int]:
        """Ids as the model was trained: the song's main language throughout, another where its letters are unknown.

        Blank lyrics give one id, [STOP]. Raises InputError when the main language has no token.
        """
        self._check_characters(lyrics)
        if not lyrics.strip():
            return [self._ids.get(_STOP, 0)]
        detection = detect_languages(lyrics)
        main = detection.weights[0][0]
        if main not in self.languages:
            known = ", ".join(self.languages)
            raise InputError(f"these lyrics are mostly in {main!r}, which the lyric vocabulary lacks; it has {known}")
        space, unknown = self._ids[_SPACE], self._ids[_UNKNOWN]
        ids = [self._ids[_START]]
        for segment in detection.segments:
            second = segment.language if segment.language in self.languages else _FALLBACK
            for line in segment.text.split("\n"):
                if line.strip():
                    line_ids = self.encode_line(line, _FALLBACK if _STRUCTURE_LINE.match(line) else main)
                    if unknown in line_ids and not _STRUCTURE_LINE.match(line):
                        line_ids = self.encode_line(line, second)
                    ids += line_ids
                ids.append(space)
        return self._check_tokens(ids)

    def _sung_language(self, line: str) -> str:
        if len(self.languages) == 1 or _STRUCTURE_LINE.match(line):
            return _FALLBACK
        detected = detect_language(line)
        return detected if detected in self.languages else _FALLBACK

    def _check_characters(self, lyrics: str) -> None:
        # Before any work: detection and spelling take time in proportion.
        if len(lyrics) > self._max_characters:
            raise InputError(
                f"lyrics have {len(lyrics)} characters; {self._max_characters} are the most that "
                f"{self.max_tokens} tokens could hold; shorten them"
            )

    def _check_tokens(self, ids: list[int]) -> list[int]:
        if len(ids) > self.max_tokens:
            raise InputError(f"lyrics make {len(ids)} tokens, the model reads at most {self.max_tokens}; shorten them")
        return ids


def _language_token(code: str) -> str:
    return "[zh-cn]" if code == "zh" else f"[{code}]"
