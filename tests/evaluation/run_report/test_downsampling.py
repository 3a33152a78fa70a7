from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from acestep.evaluation.run_report.downsampling import envelope, means, running_mean


def test_no_spike_is_lost() -> None:
    x, y = np.arange(100_000), np.random.default_rng(0).normal(size=100_000)
    y[54_321], y[77_777] = 1e6, -1e6
    points = envelope(x, y, columns=300)
    assert len(points) <= 600
    assert {(54_321.0, 1e6), (77_777.0, -1e6)} <= set(points)
    assert points == sorted(points)


def test_means_keep_the_mean_and_short_curves_stay_as_they_are() -> None:
    x, y = np.arange(6000), np.arange(6000.0)
    points = means(x, y, columns=300)
    assert len(points) == 300
    assert points[0] == (9.5, 9.5)
    assert np.mean([value for _, value in points]) == y.mean()
    assert means(x[:3], y[:3]) == envelope(x[:3], y[:3]) == [(0.0, 0.0), (1.0, 1.0), (2.0, 2.0)]


@given(st.lists(st.one_of(st.floats(-10, 10), st.just(float("nan"))), max_size=50))
def test_a_running_mean_stays_within_what_it_has_seen(values: list[float]) -> None:
    y = np.array(values)
    smooth = running_mean(y)
    assert (np.isnan(smooth) == np.isnan(y)).all()
    seen = y[np.isfinite(y)]
    if len(seen):
        assert smooth[np.isfinite(y)][0] == seen[0]
        assert np.nanmin(smooth) >= seen.min() - 1e-9
        assert np.nanmax(smooth) <= seen.max() + 1e-9
