"""Thresholds keep their promise on maxima, and lie well beyond what unrelated things reached."""

from __future__ import annotations

import math

import numpy as np
import pytest

from acestep.evaluation.chance_level import ENOUGH, ChanceLevel, Measure, fisher

PLAIN = Measure("plain", floor=0.0, sure=9.0, noticed=0.0)
CORRELATION = Measure("correlation", floor=0.6, sure=0.8, noticed=0.5, straightened=fisher, bent=math.tanh)


def level(values: list[float], measure: Measure = PLAIN, tail: float = 0.01) -> ChanceLevel:
    return ChanceLevel.fit(measure, values, tail=tail, source="things")


def test_maxima_exceed_the_threshold_no_more_often_than_promised() -> None:
    generator = np.random.default_rng(0)
    maxima = generator.normal(size=(20_000, 200)).max(1)
    exceeded = [float((maxima > level(list(fold)).threshold).mean()) for fold in maxima.reshape(-1, 50)]
    assert 0.0001 < np.mean(exceeded) < 0.01


def test_the_chance_of_the_middle_value_is_a_half() -> None:
    maxima = np.random.default_rng(0).normal(size=(2000, 200)).max(1)
    assert level(list(maxima)).chance(float(np.median(maxima))) == pytest.approx(0.5, abs=0.05)


def test_a_threshold_is_as_far_beyond_the_highest_unrelated_value_as_that_is_from_the_middle() -> None:
    found = level([0.0] * 200 + [50.0])
    assert found.threshold == 100.0
    assert found.noticeable == 50.0


def test_a_threshold_is_never_below_the_floor() -> None:
    found = level([0.1, 0.11] * 10, CORRELATION)
    assert found.threshold == 0.6
    assert found.noticeable == 0.5


def test_a_threshold_of_correlations_is_below_one() -> None:
    found = level([0.5, 0.9, 0.1, 0.6] * 5, CORRELATION, tail=1e-6)
    assert 0.9 < found.threshold < 1
    assert found.chance(1.0) is not None


def test_too_few_values_give_the_fixed_threshold_and_no_chance() -> None:
    few = level([0.2] * (ENOUGH - 1))
    assert few.threshold == few.noticeable == 9.0
    assert few.chance(100.0) is None
    assert "too few" in few.basis
    assert level([]).threshold == 9.0
    assert level([11.0]).threshold == 11.0


def test_a_threshold_says_what_it_was_taken_from() -> None:
    said = level(list(np.random.default_rng(1).gumbel(size=40)), tail=1e-6).as_dict()
    assert "Gumbel" in said["basis"]
    assert "40 things" in said["basis"]
    assert said["unrelated"] == 40
