from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from acestep.evaluation.recognition import StyleAxis, place_songs

Songs = list[NDArray[np.float64]]


def songs(centre: float, count: int, *, seed: int, dims: int = 30, windows: int = 4) -> Songs:
    """Windows about a point on the first feature; every song has an offset of its own in all of them."""
    generator = np.random.default_rng(seed)
    shift = np.eye(dims)[0] * centre
    return [shift + 0.5 * generator.normal(size=dims) + generator.normal(size=(windows, dims)) for _ in range(count)]


PROMPTS = [index // 2 for index in range(8)]


def test_recordings_lie_at_0_and_the_bases_songs_at_1() -> None:
    recordings, base = songs(0, 6, seed=1), songs(5, 8, seed=2)
    axis = StyleAxis.fit(recordings, base)
    assert np.mean([axis.place(song) for song in recordings]) == pytest.approx(0, abs=1e-9)
    assert np.mean([axis.place(song) for song in base]) == pytest.approx(1)


@pytest.mark.parametrize(("centre", "near"), [(0.0, 8), (10.0, 0)])
def test_songs_are_recognised_by_what_tells_the_sets_apart(centre: float, near: int) -> None:
    places = place_songs(songs(10, 8, seed=3), songs(centre, 8, seed=4), songs(0, 8, seed=5), PROMPTS)
    assert places.recognised == (0, near, 8)


def test_halfway_songs_lie_halfway() -> None:
    places = place_songs(songs(12, 8, seed=3), songs(6, 8, seed=4), songs(0, 8, seed=5), PROMPTS)
    assert np.mean(places.adapted) == pytest.approx(0.5, abs=0.15)


def test_where_nothing_differs_songs_that_the_classifier_did_not_know_are_not_recognised_as_the_bases() -> None:
    """Fitted on the songs that it judges, it would tell sets of one kind apart: features outnumber songs."""
    base, recordings = songs(0, 8, seed=6), songs(0, 8, seed=7)
    axis = StyleAxis.fit(recordings, base)
    assert sum(axis.place(song) > 0.5 for song in base) == 8
    assert place_songs(base, base, recordings, PROMPTS).recognised[0] >= 2


def test_sets_without_any_difference_give_no_nan() -> None:
    same = [np.ones((3, 4))] * 4
    places = place_songs(same, same, same, [0, 0, 1, 1])
    assert np.isfinite(places.base).all()
