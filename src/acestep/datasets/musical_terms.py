"""Keys and tempos as people write them: read, and told anew for music that was transposed or made faster.

Known are key names in letters (E minor, C# Major, B flat minor, F♯ dorian, Em between commas, "key of G") and tempos in
bpm or beats per minute (92 bpm, 120-130 BPM, tempo: 92). What is written otherwise stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from acestep.audio.key import MAJOR_NAMES, MINOR_NAMES, MusicalKey

_LETTERS = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
_ACCIDENTALS = {"": 0, "#": 1, "♯": 1, "sharp": 1, "b": -1, "♭": -1, "flat": -1}
_PLAIN_MODES = {"": 0, "major": 0, "maj": 0, "ionian": 0, "minor": 1, "min": 1, "m": 1, "aeolian": 1}
"""Those that an analysis into major and minor can tell: 1 is minor."""
_MINOR_MODES = frozenset({"minor", "min", "m", "dorian", "phrygian", "aeolian", "locrian"})

_TONIC = r"(?P<letter>[A-Ga-g])(?P<accidental>[#♯b♭]|[ -]?(?:[Ss]harp|[Ff]lat)\b)?"
_LONG_MODE = r"(?:major|minor|maj|min|dorian|phrygian|lydian|mixolydian|aeolian|ionian|locrian)"
_KEY = rf"{_TONIC}(?:(?P<gap>[ -]?)(?P<mode>(?i:{_LONG_MODE})|m))?"
_END = r"(?![\w#♯♭])"
_ALONE = re.compile(_KEY)
_LONG = re.compile(rf"(?<![\w#♯♭]){_TONIC}(?P<gap>[ -]?)(?P<mode>(?i:{_LONG_MODE})){_END}")
_AFTER_KEY = re.compile(rf"(?P<intro>\b(?i:key)(?: of|:)? ){_KEY}{_END}")
_PHRASE = re.compile(rf"(?P<intro>(?:^|[,;])\s*){_TONIC}(?P<gap>)(?P<mode>m|min|maj)(?=\s*(?:[,;.]|$))")

_NUMBER = r"\d{2,3}(?:\.\d+)?"
_BEFORE_UNIT = re.compile(
    rf"(?<![\d.])(?P<first>{_NUMBER})(?:(?P<between>\s?(?:-|–|to)\s?)(?P<second>{_NUMBER}))?"
    r"(?P<unit>[\s-]?(?:bpm\b|beats (?:per|a) minute\b))",
    re.IGNORECASE,
)
_AFTER_WORD = re.compile(rf"(?P<intro>\b(?:bpm|tempo)(?: of)?[:= ]\s?)(?P<first>{_NUMBER})(?![\d.]*\d)", re.IGNORECASE)

_Rewrite = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]


def is_key(text: str) -> bool:
    """Whether a whole text is the name of a key that `transpose_key` can read."""
    return _ALONE.fullmatch(text.strip()) is not None


def transpose_key(key: str, semitones: int) -> str:
    """`E minor` two semitones up is `F# minor`; ValueError for what is no key's name."""
    match = _ALONE.fullmatch(key.strip())
    if match is None:
        raise ValueError(f"{key!r} is no key; expected one such as E minor, C# major or Bbm")
    return _moved(match, semitones)


def transpose_text(text: str, semitones: int, *, key: str = "") -> str:
    """A prompt with all keys that it names moved.

    key: the track's annotated one, found in any way it is written there. A small letter, or an A before a further word,
    may be an article ("a minor change"): those move only where they are that key.
    """
    known = key.strip()

    def move(match: re.Match[str]) -> str:
        return _moved(match, semitones)

    def move_certain(match: re.Match[str]) -> str:
        article = match["letter"] == "A" and not match["accidental"] and re.match(r" \w", text[match.end() :])
        certain = match["letter"].isupper() and not article
        return move(match) if certain or match.group().lower() == known.lower() else match.group()

    def move_named(match: re.Match[str]) -> str:
        return move(match) if match["mode"] or match["letter"].isupper() else match.group()

    rewrites: list[_Rewrite] = [(_AFTER_KEY, move_named), (_PHRASE, move), (_LONG, move_certain)]
    if is_key(known) and len(known) > 1:
        rewrites.append((re.compile(rf"(?<!\w){re.escape(known)}{_END}"), lambda _: transpose_key(known, semitones)))
    return _rewritten(text, rewrites)


def scale_tempos(text: str, factor: float) -> str:
    """A prompt with all tempos that it names times `factor`, in whole beats a minute."""

    def scale(number: str) -> str:
        return str(round(float(number) * factor))

    def before_unit(match: re.Match[str]) -> str:
        second = match["between"] + scale(match["second"]) if match["second"] else ""
        return f"{scale(match['first'])}{second}{match['unit']}"

    return _rewritten(
        text, [(_BEFORE_UNIT, before_unit), (_AFTER_WORD, lambda match: match["intro"] + scale(match["first"]))]
    )


def named_key(text: str) -> MusicalKey | None:
    """The key that a prompt names; None where it names none, several, or one of neither major nor minor.

    A small letter or a lone A before a further word is taken for an article, and a letter without a mode for a major
    key only behind the word key ("key of G").
    """
    found = set()
    for match in (*_AFTER_KEY.finditer(text), *_PHRASE.finditer(text), *_LONG.finditer(text)):
        groups = match.groupdict()
        mode = (groups["mode"] or "").lower()
        after_key = bool(groups.get("intro", "") and "key" in groups["intro"].lower())
        article = match["letter"] == "A" and not match["accidental"] and re.match(r" \w", text[match.end() :])
        certain = after_key or (match["letter"].isupper() and not (article and match.re is _LONG))
        if not certain or (not mode and match["letter"].islower()):
            continue
        if mode not in _PLAIN_MODES:
            return None
        found.add(MusicalKey(_tonic(match), "minor" if _PLAIN_MODES[mode] else "major"))
    return found.pop() if len(found) == 1 else None


def named_tempo(text: str) -> tuple[float, float] | None:
    """Slowest and fastest beats a minute that a prompt asks for, equal for "92 bpm"; None where it names none or two
    apart."""
    found = set()
    for match in _BEFORE_UNIT.finditer(text):
        ends = [float(match["first"]), float(match["second"] or match["first"])]
        found.add((min(ends), max(ends)))
    found |= {(float(match["first"]), float(match["first"])) for match in _AFTER_WORD.finditer(text)}
    return found.pop() if len(found) == 1 else None


def _rewritten(text: str, rewrites: Iterable[_Rewrite]) -> str:
    """All matches rewritten at once, so that none is met again; of two that overlap, the one that begins first."""
    found = [
        (match.start(), order, match, rewrite)
        for order, (pattern, rewrite) in enumerate(rewrites)
        for match in pattern.finditer(text)
    ]
    parts, end = [], 0
    for start, _, match, rewrite in sorted(found, key=lambda entry: entry[:2]):
        if start >= end:
            parts += [text[end:start], rewrite(match)]
            end = match.end()
    return "".join([*parts, text[end:]])


def _moved(match: re.Match[str], semitones: int) -> str:
    """A key's name moved, in the style it was written in."""
    groups = match.groupdict()
    accidental, mode = groups["accidental"] or "", groups["mode"] or ""
    tonic = (_tonic(match) + semitones) % 12
    name = (MINOR_NAMES if mode.lower() in _MINOR_MODES else MAJOR_NAMES)[tonic]
    letter = name[0] if groups["letter"].isupper() else name[0].lower()
    return f"{groups.get('intro') or ''}{letter}{_accidental_like(accidental, name[1:])}{groups['gap'] or ''}{mode}"


def _tonic(match: re.Match[str]) -> int:
    """0 is C; as written, for keys with a sharp or flat beyond the octave too."""
    plain = (match["accidental"] or "").strip(" -").lower()
    return (_LETTERS[match["letter"].lower()] + _ACCIDENTALS[plain]) % 12


def _accidental_like(written: str, wanted: str) -> str:
    """ "#", "b" or nothing, as words or signs where the key had its own so."""
    if not wanted:
        return ""
    if len(written) > 1:
        lead = written[0] if written[0] in " -" else ""
        return lead + {"#": "sharp", "b": "flat"}[wanted]
    return {"#": "♯", "b": "♭"}[wanted] if written in ("♯", "♭") else wanted
