"""Where the training loss stands and where it is going, with the luck of the noise levels taken out."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from acestep.training.expected_loss import cost_of_level
from acestep.training.results import ExampleLoss

_FEWEST = 20
_WINDOW = 256


@dataclass(frozen=True)
class Trend:
    """level: the newest examples' mean loss, had they drawn the levels of both windows; change: of it against the
    window before, as a share of it; standard_error: of change. Both None before there are two windows.
    """

    level: float
    change: float | None = None
    standard_error: float | None = None

    @property
    def direction(self) -> int:
        """-1 falls, 1 rises, 0 cannot be told from standing still (two standard errors)."""
        if self.change is None or self.standard_error is None or abs(self.change) <= 2 * self.standard_error:
            return 0
        return 1 if self.change > 0 else -1


class LossTrend:
    """The newest `window` examples against as many before them. Each loss is divided by what its level costs on average
    (expected_loss.py) over both; the tracks' differences stay in, as noise that the standard error counts.
    """

    def __init__(self, window: int = _WINDOW) -> None:
        self.window = max(window, _FEWEST)
        self._examples: deque[tuple[float, float]] = deque(maxlen=2 * self.window)

    def add(self, examples: Iterable[ExampleLoss]) -> None:
        """Examples of a step, in the order they were trained on."""
        self._examples.extend((e.sigma, e.loss) for e in examples if math.isfinite(e.loss) and e.loss > 0)

    def now(self) -> Trend | None:
        """None before the first example."""
        if not self._examples:
            return None
        sigma, loss = np.array(self._examples).T
        new = np.arange(len(loss)) >= len(loss) - self.window
        if len(loss) < _FEWEST or np.ptp(sigma) == 0:
            return Trend(float(loss[new].mean()))
        ratio = loss / cost_of_level(sigma, loss)
        recent, before = ratio[new], ratio[~new]
        level = float(recent.mean() / ratio.mean() * loss.mean())
        if len(before) < self.window:
            return Trend(level)
        change = float(recent.mean() / before.mean() - 1)
        relative = [float(part.std(ddof=1)) / float(part.mean()) / math.sqrt(len(part)) for part in (recent, before)]
        return Trend(level, change, (1 + change) * math.hypot(*relative))
