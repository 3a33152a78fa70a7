"""Magnitude pruning (Han et al. 2015, arXiv:1506.02626): only the largest numbers of each change are added up."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from acestep.errors import InputError


def magnitude(deltas: Tensor, weights: Tensor, *, density: float = 0.5) -> Tensor:
    """The weighted sum of what is left. deltas: (adapters, out, in); weights: (adapters,) -> (out, in)"""
    return torch.einsum("n,noi->oi", weights, keep_largest(deltas, density))


def keep_largest(deltas: Tensor, density: float) -> Tensor:
    """The share `density` of each change's numbers that is largest, zeros for the rest; equals of the last one stay.

    deltas: (adapters, out, in) -> (adapters, out, in)
    """
    check_density(density)
    kept = round(density * deltas[0].numel())
    if kept == deltas[0].numel():
        return deltas
    if kept == 0:
        return torch.zeros_like(deltas)
    return torch.stack([_largest(delta, kept) for delta in deltas])


def check_density(density: float) -> None:
    if not 0 < density <= 1:
        raise InputError(f"density is {density:g}; give the share of numbers to keep, above 0 and up to 1")


def _largest(delta: Tensor, kept: int) -> Tensor:
    sizes = delta.abs()
    # numpy selects with vector instructions, several times as fast as torch's kthvalue.
    values = sizes.flatten().numpy()
    place = values.size - kept
    return delta.where(sizes >= float(np.partition(values, place)[place]), 0.0)
