"""What the songs of a comparison say in figures: each with base, LoRA, the paired change and its uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acestep.evaluation.distance import (
    COMPONENTS,
    EmbeddingSpace,
    distance_on_a_par,
    distances_among,
    frechet_distance,
    frechet_without_bias,
)
from acestep.evaluation.held_out import LossComparison
from acestep.evaluation.recognition import place_songs
from acestep.evaluation.side_by_side import Comparison
from acestep.evaluation.uncertainty import Estimate, Indices, bootstrap_change, paired_change

Windows = NDArray[np.float64]

FRECHET_WINDOWS = 2 * COMPONENTS
"""Fewer windows than this on either side make the covariances of a Frechet distance mostly noise."""


@dataclass(frozen=True)
class Figure:
    """One measure, lower is nearer to the style; recordings: what recordings of the style score themselves."""

    key: str
    name: str
    base: float
    adapted: float
    change: Estimate
    note: str
    recordings: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def short(self) -> str:
        """The name inside a sentence."""
        return self.name[0].lower() + self.name[1:] if self.key != "frechet_distance" else self.name

    @property
    def verdict(self) -> str:
        if self.change.falls:
            return "nearer to the style"
        if self.change.rises:
            return "further from the style"
        return "no difference measured"

    @property
    def share_of_gap(self) -> float | None:
        """How much of the way from the base to the recordings themselves was gone; None where there is no way."""
        if self.recordings is None or self.base <= self.recordings:
            return None
        return (self.base - self.adapted) / (self.base - self.recordings)

    def as_dict(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "name": self.name,
            "base": self.base,
            "lora": self.adapted,
            "recordings": self.recordings,
            "change": self.change.as_dict(),
            "verdict": self.verdict,
            **self.details,
        }


def loss_figure(losses: LossComparison) -> Figure:
    """Held-out denoising loss as a figure."""
    return Figure(
        "held_out_loss",
        "Held-out loss",
        losses.base,
        losses.adapted,
        losses.change,
        "Error in predicting recordings that training never saw; the same noise for both, paired by recording.",
    )


def style_figure(comparisons: Sequence[Comparison], strength: float, recordings: Sequence[Windows]) -> Figure:
    """Where songs lie on the way from the base's songs to recordings, by a classifier that did not know them."""
    base, adapted = _windows(comparisons, 0.0), _windows(comparisons, strength)
    places = place_songs(base, adapted, recordings, _groups(comparisons))
    counts = ", ".join(
        f"{count} of {total} {what}"
        for count, total, what in zip(
            places.recognised,
            (len(base), len(adapted), len(recordings)),
            ("base songs", "songs with the LoRA", "recordings"),
            strict=True,
        )
    )
    return Figure(
        "style",
        "Style classifier",
        float(np.mean(places.base)),
        float(np.mean(places.adapted)),
        paired_change(places.base, places.adapted, _groups(comparisons)),
        "On the line from the base's songs (1) to held-out recordings (0) that tells the two apart best, found for "
        f"each prompt without its songs. Nearer to the recordings than to the base: {counts}.",
        float(np.mean(places.recordings)),
        {"recognised": dict(zip(("base", "lora", "recordings"), places.recognised, strict=True))},
    )


def distance_figure(comparisons: Sequence[Comparison], strength: float, recordings: Sequence[Windows]) -> Figure:
    """Distance of songs to the nearest recording of the style, paired by prompt and seed."""
    base, adapted = _windows(comparisons, 0.0), _windows(comparisons, strength)
    space = EmbeddingSpace.fit(recordings, base)
    before = [distance_on_a_par(song, recordings, space) for song in base]
    after = [distance_on_a_par(song, recordings, space) for song in adapted]
    return Figure(
        "distance_to_style",
        "Style distance",
        float(np.mean(before)),
        float(np.mean(after)),
        paired_change(before, after, _groups(comparisons)),
        "From each song's timbre and rhythm to those of the nearest held-out recording, in standard deviations a "
        "feature; paired by prompt and seed, prompts counted once.",
        float(np.mean(distances_among(recordings, space))) if len(recordings) > 1 else None,
    )


def count_windows(comparisons: Sequence[Comparison], recordings: Sequence[Windows]) -> int:
    """Windows on the poorer side of a Frechet distance."""
    return min(sum(map(len, _windows(comparisons, 0.0))), sum(map(len, recordings)))


def frechet_figure(comparisons: Sequence[Comparison], strength: float, recordings: Sequence[Windows]) -> Figure:
    """Frechet distance of all songs to all recordings, extrapolated to endless songs, its change bootstrapped."""
    base, adapted = _windows(comparisons, 0.0), _windows(comparisons, strength)
    space = EmbeddingSpace.fit(recordings, base)
    known = space.projected(np.concatenate(recordings))
    before, after = ([space.projected(song) for song in songs] for songs in (base, adapted))

    def change(rows: Indices) -> float:
        # Both sides have the same number of windows in every draw, so that the bias of small sets cancels.
        sides = (np.concatenate([songs[row] for row in rows]) for songs in (after, before))
        nearer, further = (frechet_distance(side, known) for side in sides)
        return nearer - further

    interval = bootstrap_change(change, _groups(comparisons))
    values = [frechet_without_bias(np.concatenate(songs), known) for songs in (before, after)]
    return Figure(
        "frechet_distance",
        "Fréchet distance",
        values[0],
        values[1],
        interval,
        "All songs against all held-out recordings, as two clouds of windows on 12 axes. Few songs make it too large; "
        "base and LoRA are extrapolated to endless songs, the change compares equal numbers; interval by bootstrap "
        "over prompts.",
    )


def distance_from_base(comparisons: Sequence[Comparison], strength: float) -> tuple[float, float]:
    """How far the LoRA moved songs, and how far apart the base's own songs of different prompts and seeds lie.

    Root mean square over windows and features, in standard deviations of the base's songs. The first is 0 exactly where
    the LoRA changes nothing.
    """
    base, adapted = _windows(comparisons, 0.0), _windows(comparisons, strength)
    space = EmbeddingSpace.fit(base)
    scores = [space.scores(song) for song in base]
    moved = [np.sqrt(((space.scores(b) - a) ** 2).mean()) for a, b in zip(scores, adapted, strict=True)]
    apart = [
        np.sqrt(((first[:rows] - second[:rows]) ** 2).mean())
        for index, first in enumerate(scores)
        for second in scores[:index]
        for rows in [min(len(first), len(second))]
    ]
    return float(np.mean(moved)), float(np.mean(apart)) if apart else float("nan")


def can_classify(comparisons: Sequence[Comparison], recordings: Sequence[Windows]) -> bool:
    """A classifier that must not know what it judges needs two prompts and two recordings."""
    return len(set(_groups(comparisons))) > 1 and len(recordings) > 1


def _windows(comparisons: Sequence[Comparison], strength: float) -> list[Windows]:
    return [comparison.at(strength).windows for comparison in comparisons]


def _groups(comparisons: Sequence[Comparison]) -> list[tuple[str, str]]:
    return [(comparison.prompt.prompt, comparison.prompt.lyrics) for comparison in comparisons]
