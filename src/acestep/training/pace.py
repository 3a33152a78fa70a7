"""How fast a run goes, and when it will be done: as a range, because steps differ."""

from __future__ import annotations

import math
from collections import deque
from statistics import mean, stdev

_REMEMBERED = 200
_BLOCKS = 8
_FEWEST = 4


class Pace:
    """Times from the end of one step to the end of the next, validation, samples and checkpoints between them included.

    The first step is left out: it warms kernels and caches up.
    """

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=_REMEMBERED)
        self._steps = 0

    def add(self, seconds: float) -> None:
        self._steps += 1
        if self._steps > 1:
            self._times.append(seconds)

    def remaining(self, steps: int) -> tuple[float, tuple[float, float]] | None:
        """Seconds for `steps` more, and the range that holds them about 19 times in 20; None before it can be told.

        Steps near each other in time are alike (other programs come and go), so the spread is that of blocks' means.
        """
        if steps == 0:
            return 0.0, (0.0, 0.0)
        if len(self._times) < _FEWEST:
            return None
        times = list(self._times)
        size = math.ceil(len(times) / _BLOCKS)
        blocks = [mean(times[start : start + size]) for start in range(0, len(times), size)]
        error = stdev(blocks) * math.sqrt(1 / len(blocks) + size / max(steps, size))
        expected = mean(times)
        low = max(expected - 2 * error, min(times))
        return steps * expected, (steps * min(low, expected), steps * (expected + 2 * error))
