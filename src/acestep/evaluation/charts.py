"""Where the lines of a chart lie: data to coordinates, which the page's template draws as inline SVG.

Drawn by us so that a chart follows the page's colours in light and dark, weighs a few kilobytes and needs no library.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from acestep.evaluation.uncertainty import Estimate

WIDTH, HEIGHT = 640, 280
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 30
MAX_POINTS = 600


@dataclass(frozen=True)
class Series:
    """One line of a chart; kind chooses its colour: `base`, `adapted`, `plain`, `faint` or `level-0` to `level-7`.

    band: (x, low, high) of what is shaded about it. The far ends of a faint line do not stretch the axis.
    """

    label: str
    points: Sequence[tuple[float, float]]
    kind: str = "plain"
    band: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True)
class Mark:
    """Something that happened at an x; kind: `checkpoint`, `good`, `bad` or `plain`, which chooses how it is drawn."""

    x: float
    label: str
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
    band: str


@dataclass(frozen=True)
class Chart:
    """A chart ready to be drawn in WIDTH x HEIGHT.

    marks: in its coordinates; values: JSON of what lies behind the lines, for a script that shows it under the pointer.
    """

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    marks: tuple[Mark, ...]
    values: str


@dataclass(frozen=True)
class IntervalBar:
    """An estimate as a bar about zero; all places are percentages of the width."""

    low: float
    high: float
    value: float
    zero: float = 50.0


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log_y: bool = False,
    marks: Sequence[Mark] = (),
    x_range: tuple[float, float] | None = None,
) -> Chart | None:
    """The lines on shared axes, thinned to what a screen can show; None where there is no finite point to draw.

    log_y: leaves out what is not above zero; x_range: of the axis, by default that of the points.
    """
    kept = [(line, _thinned([p for p in line.points if _drawable(p, log_y)])) for line in series]
    kept = [(line, points) for line, points in kept if points]
    if not kept:
        return None
    bands = [[edge for edge in line.band if _drawable(edge, log_y)] for line, _ in kept]
    xs = [x for _, points in kept for x, _ in points]
    x_low, x_high = x_range or (min(xs), max(xs))
    ys = [y for line, points in kept for y in _stretching(line, points)]
    ys += [y for band in bands for _, low, high in band for y in (low, high)]
    x_ticks = nice_ticks(x_low, x_high, 6)
    y_ticks = log_ticks(min(ys), max(ys)) if log_y else nice_ticks(min(ys), max(ys), 5)
    y_low, y_high = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))
    height_of: Callable[[float], float] = math.log10 if log_y else float

    def x_of(value: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * _share(min(max(value, x_low), x_high), x_low, x_high), 1)

    def y_of(value: float) -> float:
        share = _share(height_of(min(max(value, y_low), y_high)), height_of(y_low), height_of(y_high))
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share, 1)

    lines = []
    for (line, points), band in zip(kept, bands, strict=True):
        placed = tuple((x_of(x), y_of(y)) for x, y in points)
        edges = [(x_of(x), y_of(high)) for x, _, high in band] + [(x_of(x), y_of(low)) for x, low, _ in band[::-1]]
        dots = placed if len(placed) <= 24 and line.kind != "faint" else ()
        lines.append(Line(line.label, line.kind, _path(placed), dots, points[0][1], points[-1][1], _path(edges)))
    values = {
        "x": x_label,
        "from": [x_low, x_high],
        "lines": [
            {"label": line.label, "kind": line.kind, "x": _short(points, 0), "y": _short(points, 1)}
            for line, points in kept
        ],
        "marks": [[mark.x, mark.label] for mark in marks if mark.kind != "checkpoint"],
    }
    return Chart(
        title,
        x_label,
        y_label,
        tuple(lines),
        tuple(Tick(x_of(value), _tick_label(value)) for value in x_ticks if x_low <= value <= x_high),
        tuple(Tick(y_of(value), _tick_label(value)) for value in y_ticks),
        tuple(Mark(x_of(mark.x), mark.label, mark.kind) for mark in marks if x_low <= mark.x <= x_high),
        json.dumps(values, ensure_ascii=False, separators=(",", ":")),
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
    # Below that a difference is rounding, and the ticks' own rounding would not tell them apart.
    if high - low < 1e-9 * max(abs(low), 1.0):
        high = low + max(abs(low), 1.0)
    raw = (high - low) / count
    magnitude: float = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    # Rounded, because 3 * 0.1 would label an axis 0.30000000000000004.
    return [round(index * step, 12) for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers above zero from just below `low` to just above `high`: 1, 2, 5, 10 ..., or decades where many."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    fine = [round(factor * 10.0**power, 12 - power) for power in range(first, last + 1) for factor in (1, 2, 5)]
    start = max((index for index, value in enumerate(fine) if value <= low * (1 + 1e-9)), default=0)
    end = min((index for index, value in enumerate(fine) if value >= high * (1 - 1e-9)), default=len(fine) - 1)
    if end - start <= 6:
        return fine[start : max(end, start + 1) + 1]
    every = math.ceil((last - first) / 6)
    return [10.0**power for power in range(first, last + every, every)]


def _drawable(values: Sequence[float], log_y: bool) -> bool:
    return all(map(math.isfinite, values)) and not (log_y and min(values[1:]) <= 0)


def _stretching(line: Series, points: Sequence[tuple[float, float]]) -> list[float]:
    """The heights that the axis must hold: of a faint line all but the outermost fiftieth at either end."""
    heights = [y for _, y in points]
    if line.kind != "faint":
        return heights
    heights.sort()
    spared = len(heights) // 50
    return [heights[spared], heights[-1 - spared]]


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def _short(points: Sequence[tuple[float, float]], axis: int) -> list[float]:
    # Five digits tell what a pointer asks for; whole steps keep all of theirs.
    return [value if (value := point[axis]) == int(value) else float(f"{value:.5g}") for point in points]


def _tick_label(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10_000 and value == int(value) else f"{value:g}"


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means of equal runs of points, where there are more than a screen has columns for."""
    run = math.ceil(len(points) / MAX_POINTS)
    if run <= 1:
        return points
    groups = [points[start : start + run] for start in range(0, len(points), run)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def _share(value: float, low: float, high: float) -> float:
    return 0.5 if high <= low else (value - low) / (high - low)
