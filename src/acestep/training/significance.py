"""Student's t, exactly, for the few questions that a run asks of its own numbers."""

from __future__ import annotations

import math


def two_sided_p(t: float, degrees: int) -> float:
    """The chance of a value at least as far from zero as `t`, by Student's distribution of whole `degrees` >= 1.

    Abramowitz and Stegun 26.7.3 and 26.7.4: sums of as many terms as half the degrees, without a table.
    """
    if math.isnan(t):
        return math.nan
    if math.isinf(t):
        return 0.0
    angle = math.atan(abs(t) / math.sqrt(degrees))
    square = math.cos(angle) ** 2
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0 if degrees == 1 else term
    for k in range(2 + odd, degrees - 1, 2):
        term *= square * (k - 1) / k
        total += term
    inside = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return min(max(1.0 - inside, 0.0), 1.0)
