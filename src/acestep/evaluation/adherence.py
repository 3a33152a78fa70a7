"""Whether songs have the tempo and the key that their prompts name, with and without an adapter.

What is heard comes from the analysis that annotates datasets (audio/tempo.py, audio/key.py), which errs itself: on made
music it is right about all tempos, up to half and double, and about four keys in five. So the base's score says what
can be asked of an adapter, and chance what a song scores that was made for another of the prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from acestep.audio.key import MusicalKey, estimate_key, key_score
from acestep.audio.tempo import estimate_tempo, same_tempo
from acestep.datasets.musical_terms import named_key, named_tempo
from acestep.errors import InputError
from acestep.evaluation.uncertainty import Estimate, paired_change

Wish = TypeVar("Wish")
TempoRange = tuple[float, float]

LEAST_CLARITY = 0.05
"""Below this the onsets of a song repeat no better than noise does."""


@dataclass(frozen=True)
class Heard:
    """What an analysis hears in a song; None where there is nothing to hear."""

    bpm: float | None
    key: MusicalKey | None

    def as_dict(self) -> dict[str, Any]:
        return {"bpm": self.bpm, "key": None if self.key is None else self.key.name}


@dataclass(frozen=True)
class Kept:
    """How well one wish is kept: mean scores from 0 to 1, and the paired change over prompts.

    songs: how many were made from prompts that name it; chance: the base's songs held against the other prompts.
    """

    key: str
    name: str
    base: float
    adapted: float
    change: Estimate
    chance: float | None
    songs: int
    note: str

    @property
    def is_lost(self) -> bool:
        return self.change.falls

    def as_dict(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "name": self.name,
            "base": self.base,
            "lora": self.adapted,
            "change": self.change.as_dict(),
            "chance": self.chance,
            "songs": self.songs,
            "lost": self.is_lost,
        }


@dataclass(frozen=True)
class Adherence:
    """kept: tempo and key, as far as prompts name them; left_out: what could not be measured, and why."""

    kept: tuple[Kept, ...]
    left_out: tuple[tuple[str, str], ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            "kept": [kept.as_dict() for kept in self.kept],
            "left_out": [{"measure": measure, "why": why} for measure, why in self.left_out],
        }


def hear(audio: NDArray[np.floating], sample_rate: int) -> Heard:
    """audio: (channels, samples); silence and NaN have neither tempo nor key."""
    tempo, key = estimate_tempo(audio, sample_rate), estimate_key(audio, sample_rate)
    clear = tempo is not None and tempo.clarity >= LEAST_CLARITY
    return Heard(tempo.bpm if tempo is not None and clear else None, None if key is None else key.key)


def measure_adherence(prompts: Sequence[str], base: Sequence[Heard], adapted: Sequence[Heard]) -> Adherence:
    """prompts: of each song; base, adapted: the same prompts and seeds in the same order.

    A prompt that names no tempo or key, or several, has no say in that part; a song in which none is heard scores 0.
    """
    if not len(prompts) == len(base) == len(adapted):
        raise InputError(
            f"{len(prompts)} prompts, {len(base)} base songs and {len(adapted)} songs with the LoRA; "
            "give one of each for every song"
        )
    found = [
        _kept("tempo", "Tempo", named_tempo, tempo_kept, prompts, base, adapted,
              "Share of songs within 4 % of the tempo in their prompt, half and double counted as right."),
        _kept("key", "Key", named_key, key_kept, prompts, base, adapted,
              "1 for the key in the prompt, 0.5 a fifth away, 0.3 its relative, 0.2 its parallel, else 0."),
    ]  # fmt: skip
    names = ("tempo in prompts", "key in prompts")
    return Adherence(
        tuple(kept for kept in found if kept is not None),
        tuple(
            (name, f"no prompt names one {name.split()[0]}")
            for name, kept in zip(names, found, strict=True)
            if kept is None
        ),
    )


def tempo_kept(heard: Heard, asked: TempoRange) -> float:
    """1 where the tempo lies in the range asked for, or is its half or double, else 0."""
    if heard.bpm is None:
        return 0.0
    slowest, fastest = asked
    within = any(slowest <= heard.bpm * factor <= fastest for factor in (0.5, 1.0, 2.0))
    return float(within or same_tempo(heard.bpm, slowest) or same_tempo(heard.bpm, fastest))


def key_kept(heard: Heard, asked: MusicalKey) -> float:
    """As `audio.key.key_score`."""
    return 0.0 if heard.key is None else key_score(heard.key, asked)


def _kept(
    key: str,
    name: str,
    wish_of: Callable[[str], Wish | None],
    score: Callable[[Heard, Wish], float],
    prompts: Sequence[str],
    base: Sequence[Heard],
    adapted: Sequence[Heard],
    note: str,
) -> Kept | None:
    asked = [(prompt, row, wish) for row, prompt in enumerate(prompts) if (wish := wish_of(prompt)) is not None]
    if not asked:
        return None
    before = [score(base[row], wish) for _, row, wish in asked]
    after = [score(adapted[row], wish) for _, row, wish in asked]
    groups: list[Hashable] = [prompt for prompt, _, _ in asked]
    by_chance = [
        score(base[row], wish) for prompt, row, own in asked for other, _, wish in asked
        if other != prompt and wish != own
    ]  # fmt: skip
    return Kept(
        key,
        name,
        float(np.mean(before)),
        float(np.mean(after)),
        paired_change(before, after, groups),
        float(np.mean(by_chance)) if by_chance else None,
        len(asked),
        note,
    )
