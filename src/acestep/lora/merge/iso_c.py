"""Iso-C (Marczak et al. 2025, arXiv:2502.04959): the sum of the changes with all its singular values made equal.

A sum is strong where the adapters agree and weak where only one of them speaks; a flat spectrum hears all directions
alike. The mean is taken over the singular values that there are: a weight has more, but a sum of low ranks has none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from acestep.lora.low_rank import LowRank, decompose


def iso_c(b: Tensor, a: Tensor, weights: Tensor, *, scale: float = 1.0) -> LowRank:
    """b: (adapters, out, rank), a: (adapters, rank, in), padded with zeros; weights: (adapters,); scale: alpha"""
    total = decompose(torch.cat(list(weights.view(-1, 1, 1) * b), dim=1), torch.cat(list(a)))
    if not total.rank:
        return total
    flat = (scale * total.values.mean()).expand_as(total.values)
    signs = flat.sign()
    return LowRank(total.left * signs, flat.abs(), total.right, float(flat.square().sum()))
