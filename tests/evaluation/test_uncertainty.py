from __future__ import annotations

import numpy as np
import pytest

from acestep.evaluation.uncertainty import Estimate, bootstrap_change, mean_interval, paired_change, t_quantile


@pytest.mark.parametrize(
    ("degrees", "tabled"), [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (11, 2.201), (30, 2.042)]
)
def test_t_quantiles_are_those_of_the_table(degrees: int, tabled: float) -> None:
    assert t_quantile(0.975, degrees) == pytest.approx(tabled, rel=0.01)


def test_intervals_of_the_mean_cover_the_truth_as_often_as_they_say() -> None:
    draws = np.random.default_rng(0).normal(3.0, 2.0, (2000, 6))
    covered = [estimate.low <= 3.0 <= estimate.high for estimate in map(mean_interval, draws)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


def test_a_single_observation_proves_nothing() -> None:
    alone = mean_interval([-5.0])
    assert not alone.falls
    assert alone.as_dict() == {"value": -5.0, "low": None, "high": None, "count": 1}


def test_pairing_finds_a_change_that_the_spread_between_songs_would_hide() -> None:
    generator = np.random.default_rng(1)
    before = generator.normal(10, 5, 16)
    after = before - 0.5 + generator.normal(0, 0.1, 16)
    assert paired_change(before, after, list(range(16))).falls
    assert not mean_interval(after - generator.permutation(before)).falls


def test_seeds_of_one_prompt_count_as_one_observation() -> None:
    change = paired_change([0.0, 0.0, 0.0, 0.0], [1.0, 3.0, 5.0, 7.0], ["a", "a", "b", "b"])
    assert change.count == 2
    assert change.value == 4.0
    assert change.high == pytest.approx(4.0 + 12.706 * 2, rel=1e-3)


def test_bootstrap_intervals_of_a_mean_agree_with_students() -> None:
    values = np.random.default_rng(2).normal(1.0, 1.0, 12)
    drawn = bootstrap_change(lambda rows: float(values[rows].mean()), list(range(12)), draws=4000)
    exact = mean_interval(values)
    assert drawn.value == pytest.approx(exact.value)
    assert (drawn.low, drawn.high) == pytest.approx((exact.low, exact.high), abs=0.1)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.arange(8.0)
    again = [bootstrap_change(lambda rows: float(np.median(values[rows])), list(range(8)), seed=5) for _ in range(2)]
    assert again[0] == again[1]


def test_an_estimate_is_sure_of_a_direction_only_when_zero_is_outside() -> None:
    assert Estimate(-1, -2, -0.1, 5).falls
    assert not Estimate(-1, -2, 0.1, 5).falls
    assert Estimate(1, 0.1, 2, 5).rises
