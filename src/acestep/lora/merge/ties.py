"""TIES (Yadav et al. 2023, arXiv:2306.01708): trim each change, elect every number's sign, average those that agree."""

from __future__ import annotations

import torch
from torch import Tensor

from acestep.lora.merge.magnitude import keep_largest

# Numbers of all adapters together that are looked at at once.
_BLOCK = 1 << 18


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
    shares = (weights / weights.abs().sum().clamp(min=torch.finfo(weights.dtype).tiny)).tolist()
    # A few rows at a time stay in the processor's cache, and little memory is needed.
    rows = max(1, _BLOCK // max(1, len(deltas) * deltas.shape[-1]))
    return (
        torch.cat([_elected(block, shares) for block in torch.split(deltas, rows, dim=1)])
        if deltas.numel()
        else deltas[0]
    )


def _elected(deltas: Tensor, shares: list[float]) -> Tensor:
    total = torch.zeros_like(deltas[0])
    for delta, share in zip(deltas, shares, strict=True):
        total.add_(delta, alpha=share)
    elected = total.sign_()
    sums, counts = torch.zeros_like(total), torch.zeros_like(total)
    for delta, share in zip(deltas, shares, strict=True):
        agrees = delta.sign().mul_(elected) == (1 if share > 0 else -1)
        sums.add_(delta * agrees, alpha=share)
        counts.add_(agrees, alpha=abs(share))
    return sums.div_(counts.clamp_(min=torch.finfo(counts.dtype).tiny))
