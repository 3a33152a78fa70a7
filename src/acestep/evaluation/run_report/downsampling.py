"""Curves of any length, thinned to what a screen has columns for without losing a spike."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Points = list[tuple[float, float]]

COLUMNS = 300


def envelope(x: NDArray[np.generic], y: Floats, *, columns: int = COLUMNS) -> Points:
    """The lowest and the highest point of each of `columns` stretches, in their order; (count,) each, NaN left out."""
    x, y = _known(x, y)
    if len(y) <= 2 * columns:
        return _points(x, y)
    edges = np.linspace(0, len(y), columns + 1).astype(np.int64)
    kept: list[int] = []
    for start, end in pairwise(edges.tolist()):
        part = y[start:end]
        kept += sorted({start + int(part.argmin()), start + int(part.argmax())})
    return _points(x[kept], y[kept])


def means(x: NDArray[np.generic], y: Floats, *, columns: int = COLUMNS) -> Points:
    """The mean of each of `columns` stretches at its mean x."""
    x, y = _known(x, y)
    if len(y) <= columns:
        return _points(x, y)
    starts = np.linspace(0, len(y), columns + 1).astype(int)[:-1]
    counts = np.diff(np.append(starts, len(y)))
    return _points(np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts)


def running_mean(y: Floats) -> Floats:
    """Exponentially weighted over about a fortieth of the run, from its first value on; NaN is passed over."""
    span = min(max(len(y) / 40, 5), 500)
    past = 1 - 1 / span
    smooth = np.full(len(y), np.nan)
    total = weight = 0.0
    for index, value in enumerate(y.tolist()):
        if value == value:
            total = past * total + value
            weight = past * weight + 1
            smooth[index] = total / weight
    return smooth


def _known(x: NDArray[np.generic], y: Floats) -> tuple[Floats, Floats]:
    known = np.isfinite(y)
    return x[known].astype(np.float64), y[known]


def _points(x: Floats, y: Floats) -> Points:
    return list(zip(x.tolist(), y.tolist(), strict=True))
