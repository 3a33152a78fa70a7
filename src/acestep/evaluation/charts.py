"""Where the lines of a chart lie: data to coordinates, which the page's template draws as inline SVG.

Drawn by us so that a chart follows the page's colours in light and dark, weighs a few kilobytes and needs no library.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from acestep.evaluation.uncertainty import Estimate

WIDTH, HEIGHT = 640, 280
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 30
MAX_POINTS = 600


@dataclass(frozen=True)
class Series:
    """One line of a chart; kind: `base`, `adapted` or `plain`, which chooses its colour."""

    label: str
    points: Sequence[tuple[float, float]]
    kind: str = "plain"


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis."""

    place: float
    label: str


@dataclass(frozen=True)
class Line:
    """A series in the chart's own coordinates."""

    label: str
    kind: str
    path: str
    dots: tuple[tuple[float, float], ...]
    first: float
    last: float


@dataclass(frozen=True)
class Chart:
    """A chart ready to be drawn in WIDTH x HEIGHT."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class IntervalBar:
    """An estimate as a bar about zero; all places are percentages of the width."""

    low: float
    high: float
    value: float
    zero: float = 50.0


def line_chart(series: Sequence[Series], *, title: str, x_label: str, y_label: str) -> Chart | None:
    """The lines on shared axes, thinned to what a screen can show; None where there is no finite point to draw."""
    kept = [(line, _thinned([p for p in line.points if all(map(math.isfinite, p))])) for line in series]
    kept = [(line, points) for line, points in kept if points]
    if not kept:
        return None
    xs, ys = ([point[axis] for _, points in kept for point in points] for axis in (0, 1))
    x_ticks, y_ticks = nice_ticks(min(xs), max(xs), 6), nice_ticks(min(ys), max(ys), 5)
    x_low, x_high = min(xs), max(xs)
    y_low, y_high = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))

    def x_of(value: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * _share(value, x_low, x_high), 1)

    def y_of(value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * _share(value, y_low, y_high), 1)

    lines = []
    for line, points in kept:
        placed = tuple((x_of(x), y_of(y)) for x, y in points)
        path = " ".join(f"{x},{y}" for x, y in placed)
        lines.append(
            Line(line.label, line.kind, path, placed if len(placed) <= 24 else (), points[0][1], points[-1][1])
        )
    return Chart(
        title,
        x_label,
        y_label,
        tuple(lines),
        tuple(Tick(x_of(value), f"{value:g}") for value in x_ticks if x_low <= value <= x_high),
        tuple(Tick(y_of(value), f"{value:g}") for value in y_ticks),
    )


def interval_bar(estimate: Estimate) -> IntervalBar | None:
    """The estimate's interval about zero, its far end at 45 % from the middle; None for an unbounded one."""
    reach = max(abs(estimate.low), abs(estimate.high), abs(estimate.value))
    if not math.isfinite(reach) or reach == 0:
        return None
    low, high, value = (round(50 + 45 * end / reach, 1) for end in (estimate.low, estimate.high, estimate.value))
    return IntervalBar(low, high, value)


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers from just below `low` to just above `high`, in steps of 1, 2 or 5 times ten to n."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / count
    magnitude: float = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    # Rounded, because 3 * 0.1 would label an axis 0.30000000000000004.
    return [round(index * step, 12) for index in range(first, last + 1)]


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means of equal runs of points, where there are more than a screen has columns for."""
    run = math.ceil(len(points) / MAX_POINTS)
    if run <= 1:
        return points
    groups = [points[start : start + run] for start in range(0, len(points), run)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def _share(value: float, low: float, high: float) -> float:
    return 0.5 if high <= low else (value - low) / (high - low)
