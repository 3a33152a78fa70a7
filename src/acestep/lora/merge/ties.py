"""TIES (Yadav et al. 2023, arXiv:2306.01708): trim each change, elect every number's sign, average those that agree."""

from __future__ import annotations

import torch
from torch import Tensor

from acestep.lora.merge.magnitude import keep_largest


def ties(deltas: Tensor, weights: Tensor, *, density: float = 0.2, scale: float = 1.0) -> Tensor:
    """deltas: (adapters, out, in), dense changes; weights: (adapters,) -> (out, in)

    density: the share of each change's numbers that is kept; scale: what the result is multiplied by, lambda in the
    paper. An average does not grow with the weights: they say whose sign wins, and who counts how much.
    """
    return scale * elected_mean(keep_largest(deltas, density), weights)


def elected_mean(deltas: Tensor, weights: Tensor) -> Tensor:
    """Of each number, the weighted mean over the changes whose sign is that of the weighted sum; zeros have no sign.

    A negative weight turns its change round. deltas: (adapters, out, in); weights: (adapters,) -> (out, in)
    """
    shares = (weights.abs() / weights.abs().sum().clamp(min=torch.finfo(weights.dtype).tiny)).view(-1, 1, 1)
    if bool((weights < 0).any()):
        deltas = deltas * weights.sign().view(-1, 1, 1)
    weighted = shares * deltas
    agrees = weighted.sign() == weighted.sum(0).sign()
    agrees &= deltas != 0
    totals = torch.where(agrees, weighted, 0.0).sum(0)
    return totals / (shares * agrees).sum(0).clamp(min=torch.finfo(deltas.dtype).tiny)
