"""Weighted average of changes, the weights made to sum to one (Wortsman et al. 2022, arXiv:2203.05482)."""

from __future__ import annotations

from torch import Tensor

from acestep.errors import InputError

# Below this share of their sizes a sum of weights is nothing but rounding.
_NOTHING = 1e-6


def weighted_average(weights: Tensor) -> Tensor:
    """What each change is multiplied by: weights / sum. weights: (adapters,) -> (adapters,)

    An adapter without the module counts as one that leaves it alone, so its weight counts in the sum.
    """
    total = weights.sum()
    if total.abs() <= _NOTHING * weights.abs().sum():
        listed = ", ".join(f"{weight:g}" for weight in weights.tolist())
        raise InputError(
            f"the weights {listed} sum to zero, so they cannot be made to sum to one;"
            " choose others, or task_arithmetic, which takes them as they are"
        )
    return weights / total
