"""Whether songs are recognised as the style, by a classifier that is never shown the prompt it judges.

A linear discriminant between held-out recordings and the base's own songs (Fisher 1936, with shrinkage after Friedman
1989), on window embeddings. It is fitted anew for each prompt without that prompt's songs, and for each recording
without that recording, so what it tells of a song is not what it was taught about it. On true songs of the demo's style
it was six times as sure as a distance to the nearest recording (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SHRINKAGE = 0.5
HALFWAY = 0.5


@dataclass(frozen=True)
class StyleAxis:
    """The direction from recordings (0) to the base's songs (1). weights, offset act on an embedding."""

    weights: Floats
    offset: float

    @staticmethod
    def fit(recordings: Sequence[Floats], base: Sequence[Floats]) -> StyleAxis:
        """recordings, base: window embeddings of songs, (windows, dims) each."""
        near, far = (np.concatenate(songs) for songs in (recordings, base))
        scale = np.sqrt((near.var(0) + far.var(0)) / 2)
        scale = np.where(scale > 1e-9, scale, 1.0)
        # Shrunk towards no correlation: a hundred windows do not give a covariance of 56 features.
        within = (np.atleast_2d(np.cov((near / scale).T)) + np.atleast_2d(np.cov((far / scale).T))) / 2
        within = (1 - SHRINKAGE) * within + SHRINKAGE * np.eye(len(within))
        difference = (far.mean(0) - near.mean(0)) / scale
        weights = np.linalg.solve(within, difference) / scale
        length = float((far.mean(0) - near.mean(0)) @ weights)
        weights = weights / length if length > 1e-9 else np.zeros_like(weights)
        return StyleAxis(weights, float(near.mean(0) @ weights))

    def place(self, song: Floats) -> float:
        """Mean over the song's windows: 0 where recordings lie, 1 where the base's songs do."""
        return float((song @ self.weights).mean()) - self.offset


@dataclass(frozen=True)
class Places:
    """Where songs lie between the recordings and the base, by one classifier each that did not know them."""

    base: tuple[float, ...]
    adapted: tuple[float, ...]
    recordings: tuple[float, ...]

    @property
    def recognised(self) -> tuple[int, int, int]:
        """How many of base, adapted and recordings are nearer to the recordings than to the base's songs."""
        return _near(self.base), _near(self.adapted), _near(self.recordings)


def place_songs(
    base: Sequence[Floats], adapted: Sequence[Floats], recordings: Sequence[Floats], prompts: Sequence[Hashable]
) -> Places:
    """base, adapted: songs in pairs, `prompts` their groups (two at least); recordings: two at least."""
    axes = {
        prompt: StyleAxis.fit(recordings, [song for song, own in zip(base, prompts, strict=True) if own != prompt])
        for prompt in set(prompts)
    }
    return Places(
        tuple(axes[prompt].place(song) for song, prompt in zip(base, prompts, strict=True)),
        tuple(axes[prompt].place(song) for song, prompt in zip(adapted, prompts, strict=True)),
        tuple(
            StyleAxis.fit([*recordings[:index], *recordings[index + 1 :]], base).place(recording)
            for index, recording in enumerate(recordings)
        ),
    )


def _near(places: Sequence[float]) -> int:
    return sum(place < HALFWAY for place in places)
