"""Figures that come with their uncertainty: intervals for paired changes and for any statistic of resampled songs.

Songs made from one prompt resemble each other, so they count as one observation: a change is averaged over the seeds
of each prompt first, and prompts are what is resampled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

LEVEL = 0.95
BOOTSTRAP_DRAWS = 400


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, from `count` independent observations."""

    value: float
    low: float
    high: float
    count: int

    @property
    def falls(self) -> bool:
        """The whole interval lies below zero."""
        return self.high < 0

    @property
    def rises(self) -> bool:
        """The whole interval lies above zero."""
        return self.low > 0

    def as_dict(self) -> dict[str, float | int | None]:
        """For JSON, which knows no infinity: an end that is not known is None."""
        low, high = (end if math.isfinite(end) else None for end in (self.low, self.high))
        return {"value": self.value, "low": low, "high": high, "count": self.count}


def mean_interval(values: Sequence[float] | Floats) -> Estimate:
    """The mean with Student's interval; one value alone has an unbounded one. values: (count,)"""
    observed = np.asarray(values, dtype=np.float64)
    mean = float(observed.mean())
    if len(observed) < 2:
        return Estimate(mean, -math.inf, math.inf, len(observed))
    half = t_quantile((1 + LEVEL) / 2, len(observed) - 1) * float(observed.std(ddof=1)) / math.sqrt(len(observed))
    return Estimate(mean, mean - half, mean + half, len(observed))


def paired_change(
    before: Sequence[float] | Floats, after: Sequence[float] | Floats, groups: Sequence[Hashable]
) -> Estimate:
    """Mean of `after - before` over groups (prompts, recordings), each group averaged first.

    before, after: (count,), the same songs in the same order; groups: which observation each belongs to.
    """
    change = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    return mean_interval([float(change[rows].mean()) for rows in _rows_of(groups)])


def bootstrap_change(
    statistic: Callable[[Indices], float], groups: Sequence[Hashable], *, seed: int = 0, draws: int = BOOTSTRAP_DRAWS
) -> Estimate:
    """A statistic of songs with a bootstrap interval over whole groups (Efron 1979, percentiles).

    `statistic` is given the indices of the songs that a draw holds, some more than once; two statistics of the same
    songs are compared in pairs by computing their difference in it.
    """
    rows = _rows_of(groups)
    value = statistic(np.concatenate(rows))
    if len(rows) < 2:
        return Estimate(value, -math.inf, math.inf, len(rows))
    generator = np.random.default_rng(seed)
    samples = np.array(
        [
            statistic(np.concatenate([rows[pick] for pick in generator.integers(len(rows), size=len(rows))]))
            for _ in range(draws)
        ]
    )
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    # Percentiles of few groups are too narrow twice over (Hesterberg 2015, arXiv:1411.5279, section 4.1): their spread
    # divides by n instead of n - 1, and they have the normal's tails instead of Student's.
    count = len(rows)
    narrowness = NormalDist().inv_cdf(1 - tail) / t_quantile(1 - tail, count - 1) * math.sqrt((count - 1) / count)
    centre = float(samples.mean())
    low_end, high_end = (value + (float(end) - centre) / narrowness for end in (low, high))
    return Estimate(value, low_end, high_end, count)


def t_quantile(probability: float, degrees: int) -> float:
    """Student's t quantile: exact for 1 and 2 degrees of freedom, else Abramowitz and Stegun 26.7.5 (1 % at 3)."""
    if degrees == 1:
        return math.tan(math.pi * (probability - 0.5))
    if degrees == 2:
        return 2 * (probability - 0.5) * math.sqrt(2 / (4 * probability * (1 - probability)))
    z = NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return math.fsum(term / degrees**power for power, term in enumerate(terms))


def _rows_of(groups: Sequence[Hashable]) -> list[Indices]:
    found: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        found.setdefault(group, []).append(row)
    return [np.array(rows, dtype=np.int64) for rows in found.values()]
