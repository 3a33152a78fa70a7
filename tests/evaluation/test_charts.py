from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acestep.evaluation.charts import HEIGHT, LEFT, WIDTH, Series, interval_bar, line_chart, nice_ticks
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
