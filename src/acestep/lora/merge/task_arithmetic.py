"""Task arithmetic (Ilharco et al. 2022, arXiv:2212.04089): changes add up, and negative weights take them away."""

from __future__ import annotations

from torch import Tensor


def task_arithmetic(weights: Tensor) -> Tensor:
    """What each change is multiplied by: its weight, as when they are attached together. (adapters,) -> (adapters,)"""
    return weights
