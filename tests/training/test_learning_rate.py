import math
from itertools import pairwise

import pytest

from acestep.training.config import LrSchedulerName
from acestep.training.learning_rate import learning_rate_factor


def factors(scheduler: LrSchedulerName, total: int, warmup: int) -> list[float]:
    return [
        learning_rate_factor(step, total_steps=total, warmup_steps=warmup, scheduler=scheduler) for step in range(total)
    ]


def test_the_warmup_rises_in_equal_steps_to_the_full_rate_and_never_starts_at_zero():
    assert factors("constant", 8, 4) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1])


def test_the_cosine_starts_full_is_half_way_in_the_middle_and_would_reach_zero_after_the_end():
    rates = factors("cosine", 100, 0)
    assert rates[0] == 1
    assert rates[50] == pytest.approx(0.5)
    assert rates[99] == pytest.approx((1 + math.cos(math.pi * 0.99)) / 2)
    assert all(later < earlier for earlier, later in pairwise(rates))


def test_linear_falls_in_equal_steps():
    assert factors("linear", 4, 0) == pytest.approx([1, 0.75, 0.5, 0.25])


def test_a_warmup_longer_than_the_run_is_still_a_warmup():
    assert factors("cosine", 2, 10) == pytest.approx([1 / 11, 2 / 11])


def test_after_the_last_step_the_rate_stays_zero():
    for scheduler in ("cosine", "linear"):
        assert learning_rate_factor(15, total_steps=10, warmup_steps=2, scheduler=scheduler) == pytest.approx(0)
