"""Notes before sound: sections in bars, chords, bass, melody and drum strokes of one track."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from acestep.datasets.synthesis.styles import DrumLine, Style
from acestep.datasets.synthesis.theory import Key

T = TypeVar("T")

# How many of a song's bars each section takes, relative to the others.
SECTION_WEIGHTS = {"intro": 1.0, "verse": 2.0, "chorus": 2.0, "bridge": 1.5, "inst": 1.5, "outro": 1.0}


@dataclass(frozen=True)
class Arrangement:
    """What is heard in a kind of section.

    drums: -1 none, 0 a pulse, 1 the verse's, 2 all; register: semitones that the melody lies higher; doubled: the
    chord's lowest note an octave up as well; held: one chord a bar.
    """

    drums: int
    bass: bool
    extra: bool
    melody: bool
    register: int = 0
    loudness: float = 1.0
    doubled: bool = False
    held: bool = False


ARRANGEMENTS = {
    "intro": Arrangement(drums=0, bass=False, extra=True, melody=False, loudness=0.75),
    "verse": Arrangement(drums=1, bass=True, extra=False, melody=True, loudness=0.85),
    "chorus": Arrangement(drums=2, bass=True, extra=True, melody=True, register=7, loudness=1.0, doubled=True),
    "bridge": Arrangement(drums=0, bass=True, extra=False, melody=False, loudness=0.75, held=True),
    "inst": Arrangement(drums=2, bass=True, extra=False, melody=True, register=4, loudness=0.95),
    "outro": Arrangement(drums=-1, bass=True, extra=False, melody=False, loudness=0.65),
}


@dataclass(frozen=True)
class Section:
    """A part of the song: its structure tag, its first bar and how many bars it has."""

    tag: str
    bar: int
    bars: int
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Note:
    """Start and length in sixteenth steps from the first downbeat; a drum has no pitch."""

    step: float
    length: float
    midi: int
    velocity: float
    vowel: str = ""


@dataclass
class Score:
    """All notes of a track by part, and its drum strokes by drum."""

    parts: dict[str, list[Note]] = field(default_factory=dict)
    drums: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def add(self, part: str, notes: Sequence[Note]) -> None:
        self.parts.setdefault(part, []).extend(notes)

    def strike(self, drum: str, step: float, velocity: float) -> None:
        self.drums.setdefault(drum, []).append((step, velocity))


def plan_sections(tags: Sequence[str], bars: int) -> list[Section]:
    """Share out the bars by SECTION_WEIGHTS, each section at least one bar, even numbers where there is room."""
    total = sum(SECTION_WEIGHTS[tag] for tag in tags)
    ends = np.cumsum([SECTION_WEIGHTS[tag] / total * bars for tag in tags])
    grid = 2 if bars >= 4 * len(tags) else 1
    edges = [0, *(int(round(end / grid) * grid) for end in ends[:-1]), bars]
    return [Section(tag, edges[i], max(1, edges[i + 1] - edges[i])) for i, tag in enumerate(tags)]


def compose(
    style: Style,
    key: Key,
    sections: Sequence[Section],
    rng: np.random.Generator,
    *,
    sung: Sequence[Sequence[Sequence[str]]],
) -> Score:
    """Write every part. `sung[i][j]` are the vowels of line j of section i; without lines a lead plays the melody."""
    score = Score()
    steps = len(style.drums[0][0].pattern)
    kit = _pick(style.drums, rng)
    bass_pattern, chord_pattern = _pick(style.bass_patterns, rng), _pick(style.chord_patterns, rng)
    extra_pattern = _pick(style.extra_patterns, rng) if style.extra_patterns else ""
    order = rng.permutation(len(style.progressions))
    progressions = {
        tag: style.progressions[order[i % len(order)]] for i, tag in enumerate(("verse", "chorus", "bridge"))
    }
    themes: dict[str, list[tuple[int, ...]]] = {}
    for section, lines in zip(sections, sung, strict=True):
        look = ARRANGEMENTS[section.tag]
        family = {"intro": "chorus", "inst": "chorus", "outro": "verse"}.get(section.tag, section.tag)
        progression = progressions[family]
        for index in range(section.bars):
            at = (section.bar + index) * steps
            degree, following = progression[index % len(progression)], progression[(index + 1) % len(progression)]
            hold = "8" + "-" * (steps - 1)
            score.add("chords", _chord_bar(style, key, degree, hold if look.held else chord_pattern, at, look))
            if look.bass:
                held = look.held or section.tag == "outro"
                score.add(
                    "bass",
                    _bass_bar(key, degree, following, "r" + "-" * (steps - 1) if held else bass_pattern, at, look),
                )
            if look.extra and extra_pattern:
                score.add("extra", _extra_bar(style, key, degree, extra_pattern, at, look))
            last = index == section.bars - 1
            _drum_bar(score, style, kit, at, look, rng, first=index == 0, fill=last and section.bars > 1)
        if look.melody:
            theme = themes.setdefault(section.tag, _theme(rng))
            if lines:
                score.add("voice", _voice(key, progression, section, lines, theme, look, steps, rng))
            else:
                score.add("lead", _lead(style, key, progression, section, theme, look, steps, rng))
    return score


def _pick(choices: Sequence[T], rng: np.random.Generator) -> T:
    return choices[int(rng.integers(len(choices)))]


def _held(pattern: str) -> Iterator[tuple[int, int, str]]:
    """(step, length, symbol) of each struck symbol, holding through the dashes after it."""
    for step, symbol in enumerate(pattern):
        if symbol in ".-":
            continue
        length = 1
        while step + length < len(pattern) and pattern[step + length] == "-":
            length += 1
        yield step, length, symbol


def _chord_bar(style: Style, key: Key, degree: int, pattern: str, at: int, look: Arrangement) -> list[Note]:
    chord = key.chord(degree, style.chord_size, 53)
    if look.doubled:
        chord = (*chord, chord[0] + 12)
    notes: list[Note] = []
    for step, length, symbol in _held(pattern):
        velocity = int(symbol) / 9 * look.loudness
        notes.extend(Note(at + step, length, midi, velocity) for midi in chord)
    return notes


def _bass_bar(key: Key, degree: int, following: int, pattern: str, at: int, look: Arrangement) -> list[Note]:
    root = key.root(degree, 31)
    towards = key.root(following, 31)
    pitches = {
        "r": root,
        "o": root + 12,
        "f": key.note(degree + 4, 31) - key.note(degree, 31) + root,
        "t": key.note(degree + 2, 31) - key.note(degree, 31) + root,
        "w": towards + (1 if root > towards else -1),
    }
    return [Note(at + step, length, pitches[symbol], 0.9 * look.loudness) for step, length, symbol in _held(pattern)]


def _extra_bar(style: Style, key: Key, degree: int, pattern: str, at: int, look: Arrangement) -> list[Note]:
    chord = key.chord(degree, max(style.chord_size, 3), 65)
    ladder = (*chord, *(midi + 12 for midi in chord))
    return [
        Note(at + step, max(length, 1.0), ladder[int(symbol)], 0.6 * look.loudness)
        for step, length, symbol in _held(pattern)
    ]


def _drum_bar(
    score: Score,
    style: Style,
    kit: Sequence[DrumLine],
    at: int,
    look: Arrangement,
    rng: np.random.Generator,
    *,
    first: bool,
    fill: bool,
) -> None:
    steps = len(kit[0].pattern)
    if look.drums < 0:
        return
    filling = fill and look.drums > 0
    for line in kit:
        if line.level > look.drums:
            continue
        for step, symbol in enumerate(line.pattern):
            if symbol == "." or (filling and step >= steps - 4 and line.level == 1):
                continue
            score.strike(line.drum, at + step, int(symbol) / 9 * rng.uniform(0.88, 1.0) * look.loudness)
    if filling:
        for index, step in enumerate(range(steps - 4, steps)):
            score.strike(style.fill, at + step, (0.55 + 0.13 * index) * look.loudness)
    if first and look.drums == 2:
        score.strike(style.cymbal, at, 0.9)


def _theme(rng: np.random.Generator) -> list[tuple[int, ...]]:
    """Two contours of eight scale steps, so that a section can answer its own question."""
    return [tuple(int(step) for step in np.cumsum(rng.choice((-2, -1, -1, 0, 1, 1, 2, 3), 8))) for _ in range(2)]


def _melody_note(key: Key, chord_degree: int, contour: int, *, strong: bool, lowest: int) -> int:
    """A scale note near the contour; on strong beats the nearest note of the chord."""
    degree = (contour % 9) - 1
    if strong:
        tones = [chord_degree % 7 + third + octave for third in (0, 2, 4) for octave in (-7, 0, 7)]
        degree = min(tones, key=lambda tone: abs(tone - degree))
    return key.note(degree, lowest)


def _lead(
    style: Style, key: Key, progression: Sequence[int], section: Section, theme: list[tuple[int, ...]],
    look: Arrangement,
    steps: int, rng: np.random.Generator,
) -> list[Note]:  # fmt: skip
    patterns = [_pick(style.melody_patterns, rng), _pick(style.melody_patterns, rng)]
    notes = []
    for bar in range(section.bars):
        contour = theme[(bar // 2) % 2]
        for index, (step, length, _) in enumerate(_held(patterns[bar % 2])):
            midi = _melody_note(
                key,
                progression[bar % len(progression)],
                contour[(index + 4 * (bar % 2)) % 8],
                strong=step % 8 == 0,
                lowest=62 + look.register,
            )
            notes.append(Note((section.bar + bar) * steps + step, length, midi, 0.8 * look.loudness))
    return notes


def _voice(
    key: Key, progression: Sequence[int], section: Section, lines: Sequence[Sequence[str]], theme: list[tuple[int,
    ...]],
    look: Arrangement, steps: int, rng: np.random.Generator,
) -> list[Note]:  # fmt: skip
    """Each line sings over an equal share of the section, in eighths, and breathes at its end."""
    notes = []
    share = section.bars / len(lines)
    for index, vowels in enumerate(lines):
        start = (section.bar + index * share) * steps
        room = int(share * steps) - steps // 4
        places = np.unique(np.round(np.linspace(0, max(room - 2, 0), len(vowels)) / 2).astype(int) * 2)
        contour = theme[index % 2]
        for position, place in enumerate(places):
            following = places[position + 1] if position + 1 < len(places) else room
            bar = int(index * share + place // steps)
            midi = _melody_note(
                key,
                progression[bar % len(progression)],
                contour[position % 8],
                strong=place % 8 == 0,
                lowest=58 + look.register,
            )
            length = min(float(following - place), 8.0)
            notes.append(Note(start + float(place), length, midi, 0.95 * look.loudness, vowels[position % len(vowels)]))
    return notes
