"""What a loss would have been at an average noise level.

The loss depends on the level that was drawn far more than on what was learned (v1's grows with sigma squared), so the
raw curve is mostly the luck of the draws. Dividing each example's loss by what its level costs on average takes that
out: the level as a control variate, in ratio form (Owen, Monte Carlo theory, methods and examples, 2013, chapter 8).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from acestep.training.history import StepColumns

Floats = NDArray[np.float64]

_BINS = 24
_PER_BIN = 20
"""Examples a bin needs before its mean is worth dividing by."""


def corrected_losses(steps: StepColumns) -> Floats | None:
    """Each step's loss as if it had drawn average levels, (steps,); NaN for steps without examples.

    Its mean over the run is the raw one's. None where there are too few examples to tell what a level costs.
    """
    examples = steps.examples
    usable = np.isfinite(examples.sigma) & np.isfinite(examples.loss) & (examples.loss > 0)
    row, sigma, loss = examples.row[usable], examples.sigma[usable], examples.loss[usable]
    if len(loss) < 2 * _PER_BIN or np.ptp(sigma) == 0:
        return None
    ratio = loss / cost_of_level(sigma, loss)
    sums = np.bincount(row, weights=ratio, minlength=len(steps))
    counts = np.bincount(row, minlength=len(steps))
    means = np.divide(sums, counts, out=np.full(len(steps), np.nan), where=counts > 0)
    return np.asarray(means / np.nanmean(means) * loss.mean())


def cost_of_level(sigma: Floats, loss: Floats) -> Floats:
    """The run's mean loss at each example's level: means of equally filled bins, joined by lines in the logarithm."""
    bins = min(_BINS, len(loss) // _PER_BIN)
    order = np.argsort(sigma, kind="stable")
    parts = np.array_split(order, bins)
    centres = np.array([sigma[part].mean() for part in parts])
    costs = np.array([loss[part].mean() for part in parts])
    return np.asarray(np.exp(np.interp(sigma, centres, np.log(costs))), dtype=np.float64)
