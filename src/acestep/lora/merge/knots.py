"""KnOTS (Stoica et al. 2024, arXiv:2410.19735): changes are written in one basis of their outputs, then merged by TIES.

The basis is U of the SVD of all changes side by side. It is found from the factors: the changes lie in the span of the
stacked B, so a QR of that and an SVD of few rows are enough.
"""

from __future__ import annotations

import torch
from torch import Tensor

from acestep.lora.low_rank import LowRank, above_rounding, decompose
from acestep.lora.merge.ties import ties


def knots(b: Tensor, a: Tensor, weights: Tensor, *, density: float = 0.2, scale: float = 1.0) -> LowRank:
    """b: (adapters, out, rank), a: (adapters, rank, in), padded with zeros; weights: (adapters,); density, scale: TIES'

    Costs numbers of (adapters, all ranks, in), never (out, in).
    """
    basis, cores = torch.linalg.qr(torch.cat(list(b), dim=1))
    # What each adapter does, as combinations of the common basis: (adapters, all ranks, in).
    parts = torch.stack([core @ down for core, down in zip(cores.chunk(len(b), dim=1), a, strict=True)])
    u, values, _ = torch.linalg.svd(torch.cat(list(parts), dim=1), full_matrices=False)
    # Directions of no length, as padding makes them, would count in the density.
    u = u[:, : above_rounding(values)]
    aligned = u.T @ parts
    return decompose(basis @ u, ties(aligned, weights, density=density, scale=scale))
