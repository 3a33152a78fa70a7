from __future__ import annotations

import numpy as np
import pytest

from acestep.errors import InputError
from acestep.evaluation.distance import (
    EmbeddingSpace,
    distance_on_a_par,
    distance_to_recordings,
    distances_among,
    frechet_distance,
    frechet_of_gaussians,
    frechet_without_bias,
)
from acestep.evaluation.embedding import embed_windows
from evaluation.songs import RATE, coloured_noise


def test_two_gaussians_of_one_shape_are_as_far_apart_as_their_means() -> None:
    shape = np.array([[2.0, 0.5], [0.5, 1.0]])
    assert frechet_of_gaussians(np.zeros(2), shape, np.array([3.0, 4.0]), shape) == pytest.approx(25.0)


def test_gaussians_of_one_mean_differ_by_their_deviations() -> None:
    """Commuting covariances: the sum of squared differences of standard deviations."""
    first, second = np.diag([4.0, 9.0]), np.diag([1.0, 1.0])
    assert frechet_of_gaussians(np.ones(2), first, np.ones(2), second) == pytest.approx(1.0 + 4.0)


def test_few_points_make_equal_sets_look_far_apart_and_extrapolation_mends_most_of_it() -> None:
    generator = np.random.default_rng(0)
    plain, mended = [], []
    for trial in range(10):
        first, second = generator.normal(size=(2, 60, 8))
        plain.append(frechet_distance(first, second))
        mended.append(frechet_without_bias(first, second, seed=trial))
    assert np.mean(plain) > 0.4
    assert abs(np.mean(mended)) < 0.3 * np.mean(plain)


def test_one_window_is_too_few_for_a_frechet_distance() -> None:
    with pytest.raises(InputError, match="two windows"):
        frechet_distance(np.zeros((1, 3)), np.zeros((9, 3)))


def test_songs_that_turn_brighter_move_towards_bright_recordings_and_away_from_dark_ones() -> None:
    dark, bright = ([embed_windows(coloured_noise(s, seed=n), RATE) for n in range(4)] for s in (-9, -1))
    before, after = ([embed_windows(coloured_noise(s, seed=20 + n), RATE) for n in range(2)] for s in (-7, -4))
    for recordings, sign in ((bright, -1), (dark, 1)):
        space = EmbeddingSpace.fit(recordings, before)
        change = [
            distance_to_recordings(b, recordings, space) - distance_to_recordings(a, recordings, space)
            for a, b in zip(before, after, strict=True)
        ]
        assert all(np.sign(change) == sign)


def test_a_copy_is_at_no_distance() -> None:
    song = embed_windows(coloured_noise(0, seed=0), RATE)
    space = EmbeddingSpace.fit([song], [embed_windows(coloured_noise(-6, seed=1), RATE)])
    assert distance_to_recordings(song, [song + 1, song], space) == pytest.approx(0.0)


def test_a_recording_of_the_style_scores_as_the_recordings_do_among_themselves() -> None:
    generator = np.random.default_rng(4)
    recordings = [generator.normal(size=(4, 6)) for _ in range(6)]
    space = EmbeddingSpace.fit(recordings, components=2)
    more = [distance_on_a_par(generator.normal(size=(4, 6)), recordings, space) for _ in range(200)]
    among = [np.mean(distances_among([generator.normal(size=(4, 6)) for _ in range(6)], space)) for _ in range(50)]
    assert np.mean(more) == pytest.approx(np.mean(among), rel=0.05)


def test_a_feature_that_never_varies_is_left_alone() -> None:
    windows = [np.column_stack([np.arange(5.0), np.full(5, 7.0)])]
    space = EmbeddingSpace.fit(windows, components=1)
    assert np.isfinite(space.scores(windows[0])).all()
    assert np.isfinite(space.projected(windows[0])).all()


def test_a_large_set_does_not_outvote_a_small_one() -> None:
    generator = np.random.default_rng(3)
    small, large = generator.normal(0, 1, (10, 2)), generator.normal(4, 1, (1000, 2))
    assert EmbeddingSpace.fit([small], [large], components=2).mean == pytest.approx([2.0, 2.0], abs=0.5)
