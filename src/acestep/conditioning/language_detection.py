"""Which languages a lyric is in: cut into one-language segments, and the language that a line is tokenised as.

The rules are those of the segmenter that tokenised the released model's lyrics, since the model knows a line by the
tokens that its detected language gave: plain English is sometimes heard as Portuguese, and stays so. Scripts are
told apart by their letters (language_spans.py), Latin and Chinese-Japanese text by a guess (language_guess.py), which
is weak for a few characters; so short pieces join their neighbours, and a few Han characters wait for what follows.

Two things differ: what the released segmenter took for markup, words between angle brackets, is text here, and Han
characters that still wait when the lyric ends are kept, where it lost them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise

from acestep.conditioning.language_guess import guess_language, significant_text
from acestep.conditioning.language_spans import Span, split_spans

# A guess for a few Han characters counts as sure above the one, and as Japanese below the other.
_SURE = 0.90
_UNSURE = 0.89
_SHORT = 5

_SENTENCE_END = re.compile(r"[。.?？!！]+\n?")
_RUNS = re.compile(r"([^\w\s]+)")
# A capital inside a word; the space before it is counted as a character of the line.
_INNER_CAPITAL = re.compile(r"(?<!\b)([A-Z])")


@dataclass(frozen=True)
class Segment:
    """A stretch of a lyric in one language (an ISO 639-1 code); English text carries the spaces that counting adds."""

    language: str
    text: str


@dataclass(frozen=True)
class Detection:
    """segments in the lyric's order; weights: characters in each language, Chinese ones twice, largest first."""

    segments: tuple[Segment, ...]
    weights: tuple[tuple[str, int], ...]


def detect_languages(text: str) -> Detection:
    """Cut lyrics, any number of lines, into segments of one language each. Blank lines belong to the line before."""
    segmenter = _Segmenter()
    for line in re.findall(r".*\n*", text):
        if line.strip():
            segmenter.add_line(line)
    return segmenter.finish()


def detect_language(line: str) -> str:
    """The language that a line is tokenised as: the heaviest, or the second where the first is English. Blank: zh."""
    languages = [language for language, _ in detect_languages(line).weights]
    if not languages:
        return "zh"
    return languages[1] if languages[0] == "en" and len(languages) > 1 else languages[0]


@dataclass
class _Piece:
    language: str
    text: str


@dataclass
class _Waiting:
    """A few Han characters that could be of either language, until the next piece decides."""

    candidates: tuple[str, str]
    text: str


@dataclass
class _Segmenter:
    """Collects the pieces of a lyric; pieces of one line join when they agree, lines join at the end."""

    weights: dict[str, int] = field(default_factory=dict)
    lines: list[list[_Piece]] = field(default_factory=list)
    waiting: _Waiting | None = None

    def add_line(self, line: str) -> None:
        self.lines.append([])
        spans = split_spans(line)
        for span in spans[:-1]:
            self._add_span(span)
        self._add_plain(spans[-1].text, ends_line=True)

    def finish(self) -> Detection:
        if self.waiting is not None:
            # Nothing follows to decide, so what came before does.
            waiting, self.waiting = self.waiting, None
            self._append(self._previous_language() or waiting.candidates[0], waiting.text)
        joined = list[_Piece]()
        for piece in (piece for line in self.lines for piece in line):
            if joined and joined[-1].language == piece.language:
                joined[-1].text += piece.text
            else:
                joined.append(piece)
        weights = sorted(self.weights.items(), key=lambda item: item[1], reverse=True)
        return Detection(tuple(Segment(piece.language, piece.text) for piece in joined), tuple(weights))

    def _add_span(self, span: Span) -> None:
        if span.kind == "plain":
            self._add_plain(span.text, ends_line=False)
        elif span.kind == "number":
            line = self.lines[-1]
            self._add(line[0].language if line else "zh", span.text)
        elif span.kind == "latin":
            for sentence in _sentences(span.text):
                self._add(guess_language(significant_text(sentence))[0], sentence)
        elif span.kind == "quotation":
            self._add_quotation(span)
        else:
            self._add(span.kind, span.text)

    def _add_quotation(self, span: Span) -> None:
        if span.inner:
            for inner in span.inner:
                self._add_span(inner)
            return
        inside = significant_text(span.inner_text)
        if len(inside) <= _SHORT:
            self._add_plain(span.text, ends_line=False)
        else:
            self._add(guess_language(inside)[0], span.text)

    def _add_plain(self, text: str, *, ends_line: bool) -> None:
        """Text in no known script, in pieces that end with punctuation and are long enough to be guessed."""
        runs = _RUNS.split(text)
        piece, has_word = "", False
        for run, following in zip(runs, [*runs[1:], None], strict=True):
            piece, has_word = piece + run, has_word or _has_word(run)
            is_last = following is None
            if not piece or (following is not None and not (has_word and _has_word(following))):
                continue
            significant = significant_text(re.sub(r"\d+", "", piece))
            if is_last or len(significant) > 2:
                self._add_guess(piece, significant, ends_line=is_last and ends_line)
                piece, has_word = "", False

    def _add_guess(self, piece: str, significant: str, *, ends_line: bool) -> None:
        if not significant:
            # Digits and punctuation alone.
            self._add("zh", piece)
            return
        language, score = guess_language(significant)
        if language != "zh" and all("\u4e00" <= char <= "\u9fff" for char in significant if not char.isspace()):
            language, score = "zh", 1.0
        if len(significant) > _SHORT or not re.search("[\u4e00-\u9fff]", significant):
            self._add(language, piece)
            return
        if score < _UNSURE or re.search("[\u3040-\u30ff]", significant):
            language = "ja"
        is_sure = len(significant) > 2 and score > _SURE
        if is_sure or re.search("[\u3040-\u30ff]", significant):
            self._add(language, piece)
        elif ends_line:
            self._add("zh" if len(significant) <= 1 else language, piece)
        else:
            self._add_undecided(language, piece, len(significant))

    def _add_undecided(self, language: str, piece: str, length: int) -> None:
        previous = self._previous_language()
        leans_chinese = language == "zh" or (length <= 2 and previous == "zh")
        candidates = ("zh", "ja") if leans_chinese else ("ja", "zh")
        if piece.rstrip()[-1] in "。.":
            self._add(previous if previous in candidates else language, piece)
        elif self.waiting is None or self.waiting.candidates != candidates:
            self._settle_waiting(None)
            self.waiting = _Waiting(candidates, piece)
        else:
            self._add(candidates[0], piece)

    def _add(self, language: str, text: str) -> None:
        if not text.strip() and text != "\n":
            return
        if language == "en":
            text = _INNER_CAPITAL.sub(r" \1", text).strip("-") + " "
        self._settle_waiting(language)
        self._append(language, text)

    def _settle_waiting(self, language: str | None) -> None:
        """Give waiting text to the language that follows it, if that is one it could be, else to the likelier one."""
        if self.waiting is not None:
            waiting, self.waiting = self.waiting, None
            decided = language if language in waiting.candidates else waiting.candidates[0]
            self._append(decided, waiting.text)

    def _append(self, language: str, text: str) -> None:
        line = self.lines[-1]
        if line:
            last = line[-1]
            if text != "\n" and _is_number(text):
                language = last.language
            if last.language == language:
                last.text += text
                self._weigh(language, text)
                return
            if last.text != "\n" and _is_number(last.text):
                # A number belongs to what follows it. It has been weighed already and is weighed again.
                text = line.pop().text + text
        line.append(_Piece(language, text))
        self._weigh(language, text)

    def _weigh(self, language: str, text: str) -> None:
        self.weights[language] = self.weights.get(language, 0) + len(text) * (2 if language == "zh" else 1)

    def _previous_language(self) -> str | None:
        return self.lines[-1][-1].language if self.lines[-1] else None


def _sentences(text: str) -> list[str]:
    """The text cut after each run of full stops, question or exclamation marks; blank parts are left out."""
    cuts = [0, *(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]
    parts = [text[start:end] for start, end in pairwise(cuts)]
    return [part for part in parts if part.strip()]


def _has_word(text: str) -> bool:
    return re.search(r"\w", text) is not None


def _is_number(text: str) -> bool:
    """Whether nothing but digits is left without punctuation; true of punctuation alone."""
    return re.fullmatch(r"\d*", re.sub(r"[^\w\s]+", "", text.replace("\n", "")).strip()) is not None
