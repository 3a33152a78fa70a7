import numpy as np
import pytest

from acestep.training.loss_trend import LossTrend
from acestep.training.results import ExampleLoss


def run(change: float, *, seed: int, window: int = 200) -> LossTrend:
    """Two windows of examples whose level costs a hundred times more at one end than at the other."""
    random = np.random.default_rng(seed)
    trend = LossTrend(window)
    for place in range(2 * window):
        sigma = float(1 / (1 + np.exp(-random.normal())))
        learned = 1 + change if place >= window else 1.0
        loss = learned * (0.01 + sigma**2) * float(np.exp(0.2 * random.normal()))
        trend.add([ExampleLoss("t", sigma, loss)])
    return trend


def test_a_fall_that_raw_losses_hide_is_seen():
    found = [run(-0.1, seed=seed).now() for seed in range(40)]
    assert np.mean([trend.direction == -1 for trend in found if trend]) > 0.95
    assert np.mean([trend.change for trend in found if trend]) == pytest.approx(-0.1, abs=0.01)


def test_where_nothing_changes_the_arrow_turns_as_seldom_as_chance_has_it():
    found = [run(0.0, seed=seed).now() for seed in range(300)]
    assert np.mean([trend.direction != 0 for trend in found if trend]) == pytest.approx(0.05, abs=0.03)
    spread = np.std([trend.change for trend in found if trend])
    assert np.mean([trend.standard_error for trend in found if trend]) == pytest.approx(float(spread), rel=0.15)


def test_few_examples_give_a_level_and_no_change():
    trend = LossTrend()
    assert trend.now() is None
    trend.add([ExampleLoss("a", 0.5, 0.2), ExampleLoss("a", 0.5, 0.4), ExampleLoss("a", 0.5, float("nan"))])
    now = trend.now()
    assert now is not None
    assert now.level == pytest.approx(0.3)
    assert now.change is None
    assert now.direction == 0


def test_old_examples_are_forgotten():
    trend = LossTrend(20)
    random = np.random.default_rng(0)
    for scale in (100.0, 1.0, 1.0):
        trend.add([ExampleLoss("a", float(sigma), scale) for sigma in random.uniform(0.1, 1, 20)])
    now = trend.now()
    assert now is not None
    assert now.level == pytest.approx(1.0)
    assert now.change == pytest.approx(0.0)
