"""How near unrelated things come, and from where on nearness is no chance: extreme values.

The nearest of many unrelated passages is a maximum, and maxima follow Gumbel's distribution whatever they are drawn
from, within wide limits (Gumbel 1958, "Statistics of Extremes"); fitted by its moments. Now and then two pieces of one
style share tempo, key and drums, which no fit to fifty pairs foresees, so the threshold also lies as far beyond the
highest unrelated value as that lies beyond the middle one, and never below a floor that the measure brings along.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_EULER = 0.5772156649015329
ENOUGH = 8
"""Fewer unrelated values than this fit nothing."""


@dataclass(frozen=True)
class Measure:
    """A kind of nearness. floor: nothing below it is ever beyond chance; sure: the threshold where chance cannot be
    measured; noticed: nothing below it is worth hearing; straightened, bent: to a scale without end and back, such as
    Fisher's for correlations."""

    name: str
    floor: float
    sure: float
    noticed: float
    straightened: Callable[[float], float] = float
    bent: Callable[[float], float] = float


@dataclass(frozen=True)
class ChanceLevel:
    """What unrelated passages reach by one measure.

    threshold: what is beyond it is no chance; noticeable: what is beyond it is nearer than any unrelated passage that
    was measured; basis: what the threshold was taken from, in words; location, scale: of the fitted distribution, None
    where there was too little to fit; median, highest: of the unrelated values.
    """

    measure: Measure
    threshold: float
    noticeable: float
    basis: str
    count: int
    location: float | None
    scale: float | None
    median: float | None
    highest: float | None

    @staticmethod
    def fit(measure: Measure, values: Sequence[float], *, tail: float, source: str) -> ChanceLevel:
        """values: the nearness of each unrelated passage; tail: the chance with which one may exceed the threshold;
        source: what the passages are, in words."""
        count = len(values)
        median, highest = (float(np.median(values)), float(max(values))) if count else (None, None)
        if count < ENOUGH:
            threshold = max(measure.sure, highest or measure.sure)
            basis = f"a fixed value, since {count} {source} are too few to measure chance ({ENOUGH} are needed)"
            return ChanceLevel(measure, threshold, threshold, basis, count, None, None, median, highest)
        straight = [measure.straightened(value) for value in values]
        middle, top = float(np.median(straight)), max(straight)
        scale = max(float(np.std(straight, ddof=1)), 1e-9) * math.sqrt(6) / math.pi
        location = float(np.mean(straight)) - _EULER * scale
        threshold, basis = max(
            (
                measure.bent(location - scale * math.log(-math.log1p(-tail))),
                f"the {1 - tail:.4%} quantile of a Gumbel distribution fitted to {count} {source}",
            ),
            (
                measure.bent(2 * top - middle),
                f"as far beyond the highest of {count} {source} as that is beyond the middle one",
            ),
            (measure.floor, f"a fixed value, since {count} {source} all lie far below it"),
        )
        noticeable = min(max(max(values), measure.noticed), threshold)
        return ChanceLevel(measure, threshold, noticeable, basis, count, location, scale, median, highest)

    def chance(self, value: float) -> float | None:
        """How likely an unrelated passage comes as near by the fit; None where that is not known."""
        if self.location is None or self.scale is None:
            return None
        beyond = (self.measure.straightened(value) - self.location) / self.scale
        return -math.expm1(-math.exp(min(-beyond, 700.0)))

    def as_dict(self) -> dict[str, Any]:
        return {
            "measure": self.measure.name,
            "threshold": self.threshold,
            "noticeable": self.noticeable,
            "basis": self.basis,
            "unrelated": self.count,
            "unrelated_median": self.median,
            "unrelated_highest": self.highest,
        }


def fisher(correlation: float) -> float:
    """Fisher's transformation (1915), finite for a correlation of 1."""
    return math.atanh(max(min(correlation, 1 - 1e-6), -1 + 1e-6))
