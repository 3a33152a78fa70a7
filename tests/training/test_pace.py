import random

import pytest

from acestep.training.pace import Pace


def test_even_steps_give_their_product_and_no_doubt():
    pace = Pace()
    for _ in range(10):
        pace.add(2.0)
    assert pace.remaining(50) == (100.0, (100.0, 100.0))


def test_the_slow_first_step_does_not_count_and_few_steps_say_nothing():
    pace = Pace()
    pace.add(100.0)
    for _ in range(3):
        pace.add(1.0)
        assert pace.remaining(10) is None
    pace.add(1.0)
    assert pace.remaining(10) == (10.0, (10.0, 10.0))


def test_nothing_is_left_at_the_end():
    assert Pace().remaining(0) == (0.0, (0.0, 0.0))


@pytest.mark.parametrize("done", [20, 100])
def test_the_range_mostly_holds_what_then_comes(done: int):
    chance = random.Random(0)
    held = 0
    for _ in range(200):
        pace = Pace()
        for _ in range(done):
            pace.add(chance.uniform(0.5, 1.5))
        truth = sum(chance.uniform(0.5, 1.5) for _ in range(150))
        remaining = pace.remaining(150)
        assert remaining is not None
        expected, (low, high) = remaining
        assert low <= expected <= high
        held += low <= truth <= high
    assert 0.85 < held / 200 < 1
