"""How far generated songs are from recordings: to the nearest recording a song, Frechet distance a set.

Both work on window embeddings (`embedding.embed_windows`) in one `EmbeddingSpace`, fitted once to what is compared, so
that no feature counts more than another because of its unit. Which distance serves was tried on true songs of the
demo's style against songs of other styles (docs/log.md): means of songs tell styles apart twice as surely as single
windows do, and features scaled by their spread within a set more surely than by their spread overall.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acestep.errors import InputError

Floats = NDArray[np.float64]

COMPONENTS = 12
"""Axes kept for the Frechet distance: a covariance needs several windows an axis; a comparison has a hundred or so."""


@dataclass(frozen=True)
class EmbeddingSpace:
    """A unit for each feature, and the strongest axes.

    mean, scale: (dims,); axes: (dims, components)
    """

    mean: Floats
    scale: Floats
    axes: Floats

    @staticmethod
    def fit(*sets: Sequence[Floats], components: int = COMPONENTS) -> EmbeddingSpace:
        """From the window embeddings of several sets of songs, each set counting the same however large it is.

        The unit of a feature is its spread within a set: what sets differ in must not shrink by their differing.
        """
        pools = [np.concatenate(songs) for songs in sets]
        mean = np.mean([pool.mean(0) for pool in pools], axis=0)
        scale = np.sqrt(np.mean([pool.var(0) for pool in pools], axis=0))
        # A feature that never varies tells nothing; it must not become an infinity.
        scale = np.where(scale > 1e-9, scale, 1.0)
        scores = [(pool - mean) / scale for pool in pools]
        covariance = np.mean([score.T @ score / len(score) for score in scores], axis=0)
        _, vectors = np.linalg.eigh(covariance)
        return EmbeddingSpace(mean, scale, vectors[:, ::-1][:, :components])

    def scores(self, windows: Floats) -> Floats:
        """(windows, dims) -> standard scores, the same shape."""
        return np.asarray((windows - self.mean) / self.scale)

    def projected(self, windows: Floats) -> Floats:
        """(windows, dims) -> coordinates on the strongest axes, (windows, components)."""
        return np.asarray(self.scores(windows) @ self.axes)


def distance_to_recordings(song: Floats, recordings: Sequence[Floats], space: EmbeddingSpace) -> float:
    """From the song's mean embedding to that of the nearest recording.

    song: (windows, dims); in standard deviations a feature (root mean square over features), 0 is a copy.
    """
    own = space.scores(song).mean(0)
    known = np.stack([space.scores(recording).mean(0) for recording in recordings])
    return float(np.sqrt(((known - own) ** 2).mean(1)).min())


def distances_among(recordings: Sequence[Floats], space: EmbeddingSpace) -> list[float]:
    """What each recording scores against all the others."""
    return [
        distance_to_recordings(own, others, space)
        for own, others in zip(recordings, _each_left_out(recordings), strict=True)
    ]


def distance_on_a_par(song: Floats, recordings: Sequence[Floats], space: EmbeddingSpace) -> float:
    """As `distance_to_recordings`, with each recording left out in turn, averaged.

    A song then has as many to be near as a recording has in `distances_among`, or it would look nearer than they are to
    each other. A single recording is left in.
    """
    if len(recordings) < 2:
        return distance_to_recordings(song, recordings, space)
    return float(np.mean([distance_to_recordings(song, others, space) for others in _each_left_out(recordings)]))


def frechet_distance(first: Floats, second: Floats) -> float:
    """Squared Frechet distance of two Gaussians fitted to points (Heusel et al. 2017, arXiv:1706.08500).

    first, second: (points, dims). Biased upwards by few points, about in proportion to 1 / points: compare it only
    between sets of equal size, or use `frechet_without_bias`.
    """
    if min(len(first), len(second)) < 2:
        raise InputError("a Frechet distance needs at least two windows on each side; compare longer or more songs")
    return frechet_of_gaussians(first.mean(0), np.cov(first.T), second.mean(0), np.cov(second.T))


def frechet_of_gaussians(mean_a: Floats, covariance_a: Floats, mean_b: Floats, covariance_b: Floats) -> float:
    """|mean_a - mean_b|^2 + trace(a + b - 2 sqrt(a b)) (Dowson and Landau 1982). means: (dims,)"""
    covariance_a, covariance_b = np.atleast_2d(covariance_a), np.atleast_2d(covariance_b)
    root_a = _matrix_root(covariance_a)
    # sqrt(a b) has the trace of the symmetric sqrt(root_a b root_a), which eigh can take without complex numbers.
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root_a @ covariance_b @ root_a), 0, None)).sum()
    distance = ((mean_a - mean_b) ** 2).sum() + np.trace(covariance_a) + np.trace(covariance_b) - 2 * cross
    return max(0.0, float(distance))


def frechet_without_bias(first: Floats, second: Floats, *, seed: int = 0, draws: int = 12) -> float:
    """Frechet distance extrapolated to endless points (Chong and Forsyth 2020, arXiv:1911.07023).

    Subsets of several sizes of both sets, a line through their distances over 1 / size, its value at 0. Removes most of
    the bias and adds noise; may be slightly negative for sets that are alike. first, second: (points, dims)
    """
    generator = np.random.default_rng(seed)
    shares = np.linspace(0.4, 1.0, 7)
    inverse_sizes, distances = [], []
    for share in np.repeat(shares, draws):
        counts = [max(2, round(share * len(points))) for points in (first, second)]
        drawn = [generator.choice(p, count, replace=False) for p, count in zip((first, second), counts, strict=True)]
        inverse_sizes.append(1 / share)
        distances.append(frechet_distance(drawn[0], drawn[1]))
    return float(np.polyfit(inverse_sizes, distances, 1)[1])


def _matrix_root(matrix: Floats) -> Floats:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T)


def _each_left_out(recordings: Sequence[Floats]) -> list[list[Floats]]:
    return [[*recordings[:index], *recordings[index + 1 :]] for index in range(len(recordings))]
