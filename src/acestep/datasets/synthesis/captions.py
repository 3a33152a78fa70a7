"""What a listener would write about a track: a prompt of tags, and lyrics with structure tags."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from acestep.datasets.synthesis.composition import Section
from acestep.datasets.synthesis.styles import Style
from acestep.datasets.synthesis.theory import Key

_NOUNS = (
    "night",
    "river",
    "fire",
    "city",
    "light",
    "moon",
    "heart",
    "road",
    "rain",
    "summer",
    "ocean",
    "shadow",
    "morning",
    "dream",
    "sky",
    "machine",
)
_VERBS = (
    "calls me",
    "is falling",
    "takes me",
    "is burning",
    "leads me",
    "is rising",
    "holds me",
    "is waiting",
    "carries on",
    "is turning",
)
_OPENINGS = ("and the", "oh the", "when the", "all the", "now the", "see how the", "we know the", "under the")
_ENDINGS = ("home", "away", "again", "tonight", "so slow", "to you", "below", "in time")


def write_lines(count: int, rng: np.random.Generator) -> tuple[str, ...]:
    """Simple singable lines of five to nine syllables."""
    return tuple(
        f"{rng.choice(_OPENINGS)} {rng.choice(_NOUNS)} {rng.choice(_VERBS)} {rng.choice(_ENDINGS)}"
        for _ in range(count)
    )


def write_lyrics(sections: Sequence[Section]) -> str:
    """Structure tags on their own lines, sung lines below them, a blank line between sections."""
    return "\n\n".join("\n".join((f"[{section.tag}]", *section.lines)) for section in sections)


def write_tags(
    style: Style, key: Key, bpm: int, instruments: Sequence[str], voice: str | None, rng: np.random.Generator
) -> tuple[str, ...]:
    """Tags in random order. Tempo and key are nearly always told; others are sometimes left out or said differently."""
    name = str(rng.choice(style.synonyms)) if style.synonyms and rng.random() < 0.12 else style.name
    tags = [name] if rng.random() < 0.96 else []
    tags += [str(mood) for mood in rng.choice(style.moods, size=2, replace=False) if rng.random() < 0.6]
    tags += [instrument for instrument in dict.fromkeys(instruments) if rng.random() < 0.55]
    if rng.random() < 0.96:
        tags.append(f"{bpm} bpm")
    if rng.random() < 0.96:
        tags.append(str(key))
    if voice is None:
        tags += ["instrumental"] if rng.random() < 0.6 else []
    elif rng.random() < 0.9:
        tags.append(voice)
    order = rng.permutation(len(tags))
    return tuple(tags[i] for i in order)
