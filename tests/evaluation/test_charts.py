from __future__ import annotations

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from acestep.evaluation.charts import HEIGHT, LEFT, WIDTH, Mark, Series, interval_bar, line_chart, log_ticks, nice_ticks
from acestep.evaluation.uncertainty import Estimate


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (0.1, 0.32, [0.1, 0.15, 0.2, 0.25, 0.3, 0.35]), (3, 3, None)],
)
def test_ticks_are_round_and_hold_the_data(low: float, high: float, expected: list[float] | None) -> None:
    ticks = nice_ticks(low, high, 5)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    if expected is not None:
        assert ticks == expected


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=1, max_size=50))
@example([(0.0, 5e-324)])
@example([(0.0, 1e5), (5e-324, 1e5 + 1e-10)])
def test_every_point_lies_inside_the_chart(points: list[tuple[float, float]]) -> None:
    chart = line_chart([Series("a", sorted(points))], title="t", x_label="x", y_label="y")
    assert chart is not None
    for place in chart.lines[0].path.split():
        x, y = map(float, place.split(","))
        assert LEFT <= x <= WIDTH
        assert 0 <= y <= HEIGHT


def test_a_falling_loss_falls_on_the_page() -> None:
    chart = line_chart([Series("loss", [(0, 2.0), (10, 1.0)])], title="t", x_label="x", y_label="y")
    assert chart is not None
    (x0, y0), (x1, y1) = chart.lines[0].dots
    assert x1 > x0
    assert y1 > y0  # the picture's own axis points down


def test_what_cannot_be_drawn_is_left_out() -> None:
    lines = [Series("broken", [(0, math.nan)]), Series("empty", [])]
    assert line_chart(lines, title="t", x_label="x", y_label="y") is None
    chart = line_chart([*lines, Series("good", [(0, 1.0)])], title="t", x_label="x", y_label="y")
    assert chart is not None
    assert [line.label for line in chart.lines] == ["good"]


def test_a_long_curve_is_thinned_without_moving_its_mean() -> None:
    points = [(float(step), math.sin(step)) for step in range(6000)]
    chart = line_chart([Series("a", points)], title="t", x_label="x", y_label="y")
    assert chart is not None
    assert len(chart.lines[0].path.split()) == 600


def test_an_interval_is_drawn_about_zero() -> None:
    bar = interval_bar(Estimate(-1.0, -2.0, 0.0, 5))
    assert bar is not None
    assert (bar.low, bar.value, bar.high, bar.zero) == (5.0, 27.5, 50.0, 50.0)
    assert interval_bar(Estimate(1.0, -math.inf, math.inf, 1)) is None
    assert interval_bar(Estimate(0.0, 0.0, 0.0, 4)) is None


def test_a_logarithmic_axis_gives_each_decade_the_same_height() -> None:
    points = [(0, 0.01), (1, 0.1), (2, 1.0), (3, 0.0), (4, -1.0)]
    chart = line_chart([Series("a", points)], title="t", x_label="x", y_label="y", log_y=True)
    assert chart is not None
    heights = [y for _, y in chart.lines[0].dots]
    assert len(heights) == 3
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)
    assert [tick.label for tick in chart.y_ticks] == ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1"]


@given(st.floats(1e-12, 1e12), st.floats(1.0, 1e12))
def test_logarithmic_ticks_hold_the_data(low: float, ratio: float) -> None:
    ticks = log_ticks(low, low * ratio)
    assert ticks[0] <= low * (1 + 1e-6)
    assert ticks[-1] >= low * ratio * (1 - 1e-6)
    assert 2 <= len(ticks) <= 9


def test_a_single_spike_does_not_flatten_a_curve() -> None:
    noise = [(float(step), 1.0 + 0.1 * (step % 2)) for step in range(200)]
    noise[77] = (77.0, 1e6)
    smooth = [(0.0, 1.0), (199.0, 1.1)]
    chart = line_chart([Series("n", noise, "faint"), Series("s", smooth)], title="t", x_label="x", y_label="y")
    assert chart is not None
    (_, start), (_, end) = chart.lines[1].dots
    assert start - end > HEIGHT / 2
    assert json.loads(chart.values)["lines"][0]["y"][77] == 1e6


def test_marks_lie_at_their_x_and_those_beyond_the_axis_are_left_out() -> None:
    marks = [Mark(5.0, "half"), Mark(11.0, "beyond")]
    series = [Series("a", [(2, 1.0), (8, 2.0)], band=[(2, 0.0, 2.0), (8, 1.5, math.nan)])]
    chart = line_chart(series, title="t", x_label="x", y_label="y", marks=marks, x_range=(0, 10))
    assert chart is not None
    assert [mark.label for mark in chart.marks] == ["half"]
    (left, _), (right, _) = chart.lines[0].dots
    assert chart.marks[0].x == pytest.approx((left + right) / 2, abs=0.1)
    assert len(chart.lines[0].band.split()) == 2
