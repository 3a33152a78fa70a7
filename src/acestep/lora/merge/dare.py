"""DARE (Yu et al. 2023, arXiv:2311.03099): drop numbers of each change at random and rescale those that are left."""

from __future__ import annotations

import torch
from torch import Tensor

from acestep.lora.merge.magnitude import check_density
from acestep.lora.merge.ties import elected_mean


def dare_linear(deltas: Tensor, weights: Tensor, draws: Tensor, *, density: float = 0.5) -> Tensor:
    """The weighted sum of what is left. deltas: (adapters, out, in); weights: (adapters,) -> (out, in)

    draws: as deltas, uniform in [0, 1); a number stays where its draw is below `density`, the paper's 1 - p.
    """
    return torch.einsum("n,noi->oi", weights, drop_and_rescale(deltas, draws, density))


def dare_ties(deltas: Tensor, weights: Tensor, draws: Tensor, *, density: float = 0.5, scale: float = 1.0) -> Tensor:
    """The same with TIES' election in place of the sum (scale: its lambda)."""
    return scale * elected_mean(drop_and_rescale(deltas, draws, density), weights)


def drop_and_rescale(deltas: Tensor, draws: Tensor, density: float) -> Tensor:
    """Each number with probability `density`, divided by it, so that the mean stays -> as deltas"""
    check_density(density)
    return torch.where(draws < density, deltas / density, 0.0)
