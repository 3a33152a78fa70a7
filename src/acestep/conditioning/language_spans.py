"""Which stretches of a line are in a known script, a number or a quotation, before any language is guessed.

Stretches are found in a fixed order (Hangul, Thai, Cyrillic, numbers, Latin, quotations); a later kind sees earlier
stretches as opaque, and a quotation may hold them. The order and the extent of each kind (letters with all
punctuation and space that follows, and opening marks just before) decide how a line is cut, and with that its token
ids, so they are those of the released model's segmenter.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

# Latin letters without the accents that only other alphabets use: a German ß or a Polish ł breaks a stretch.
# Lower case Vietnamese is complete but for ỳ and ỵ, as in the released segmenter.
_VIETNAMESE = "ăĩũđơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỷỹ"
_LATIN = f"a-zA-Zà-öù-ÿ{_VIETNAMESE}"
_OPENING = "【《（(“‘\"'"


def _letters(alphabet: str) -> re.Pattern[str]:
    # Opening marks are entered only at the first of a run and taken whole (*+), so that a long run is tried once.
    return re.compile(rf"(?<![{_OPENING}])[{_OPENING}]*+[{alphabet}][{alphabet}\W]*")


_KINDS = (
    ("ko", _letters("가-힣")),
    ("th", _letters("\u0e00-\u0e7f")),
    ("ru", _letters("А-Яа-яЁё")),
    # Again a run, of punctuation or of digits, is entered only at its start.
    ("number", re.compile(r"(?:(?<!\W)\W++|(?<![\d\W]))\d++\W++\d*\W*\d*")),
    ("latin", _letters(_LATIN)),
    ("quotation", re.compile(r"([\"'])(.*?)\1")),
    ("quotation", re.compile(r"[【《（(“‘]([^【《（(“‘’”)）》】]{3,})[’”)）》】]\W*")),
)
# A stretch already found looks like letters of no alphabet to the kinds that follow.
_TAKEN = "_"


@dataclass(frozen=True)
class Span:
    """A stretch of a line and its kind: "ko", "th", "ru" for scripts of one language, "latin", "number", "quotation"
    or "plain" for everything else.

    A quotation has inner_text, what stands between its marks, and inner spans when it holds stretches of other kinds.
    """

    kind: str
    text: str
    inner_text: str = ""
    inner: tuple[Span, ...] = ()


@dataclass(frozen=True)
class _Found:
    start: int
    end: int
    kind: str
    content: tuple[int, int]


def split_spans(line: str) -> list[Span]:
    """The line (with its line breaks) as spans, in order; their texts join to the line.

    The last span is always plain, and may be empty.
    """
    mask, found = line, list[_Found]()
    for kind, pattern in _KINDS:
        matches = list(pattern.finditer(mask))
        if kind in ("number", "quotation") and [match.span() for match in matches] == [(0, len(line))]:
            # A line that is nothing but one number or quotation stays plain.
            continue
        found += [_Found(*match.span(), kind, match.span(match.lastindex or 0)) for match in matches]
        mask = pattern.sub(lambda match: _TAKEN * len(match[0]), mask)
    in_order = deque(sorted(found, key=lambda stretch: (stretch.start, -stretch.end)))
    return _arrange(line, 0, len(line), in_order)


def _arrange(line: str, start: int, end: int, found: deque[_Found]) -> list[Span]:
    """Take the stretches that begin before end, with plain text around each; one within another goes inside it."""
    spans, position = list[Span](), start
    while found and found[0].start < end:
        stretch = found.popleft()
        if stretch.start > position:
            spans.append(Span("plain", line[position : stretch.start]))
        inner = _arrange(line, stretch.start, stretch.end, found)
        holds_others = len(inner) > 1
        text, inner_text = line[stretch.start : stretch.end], line[slice(*stretch.content)]
        spans.append(Span(stretch.kind, text, inner_text, tuple(inner) if holds_others else ()))
        position = stretch.end
    return [*spans, Span("plain", line[position:end])]
