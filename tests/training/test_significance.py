import math

import pytest
import torch

from acestep.training.significance import two_sided_p


@pytest.mark.parametrize(
    ("t", "degrees", "p"),
    # Quantiles that every table prints: 95 % and 99 %, two-sided.
    [
        (12.7062, 1, 0.05),
        (4.3027, 2, 0.05),
        (3.1824, 3, 0.05),
        (2.2281, 10, 0.05),
        (2.8453, 20, 0.01),
        (63.657, 1, 0.01),
    ],
)
def test_the_quantiles_are_those_of_the_tables(t: float, degrees: int, p: float):
    assert two_sided_p(t, degrees) == pytest.approx(p, rel=1e-3)
    assert two_sided_p(-t, degrees) == two_sided_p(t, degrees)


def test_it_agrees_with_ratios_that_were_drawn():
    draws = torch.randn(200_000, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = draws.mean(1) / (draws.std(1) / math.sqrt(6))
    for level in (0.5, 1.5, 3.0):
        assert float((t.abs() >= level).double().mean()) == pytest.approx(two_sided_p(level, 5), abs=4e-3)


def test_the_ends_are_sure():
    assert two_sided_p(0.0, 7) == 1.0
    assert two_sided_p(math.inf, 7) == 0.0
    assert two_sided_p(1e9, 30) == pytest.approx(0.0, abs=1e-12)
    assert math.isnan(two_sided_p(math.nan, 3))
