"""Core Space (Panariello et al. 2025, arXiv:2509.17786): TIES on small matrices in bases that all adapters share.

Both bases come from SVDs of the stacked factors, and every change lies wholly in them, so nothing is lost on the way in
or out. Factors are first balanced (each singular value shared between A and B): then the same change gives the same
merge, however its factors were written.
"""

from __future__ import annotations

import torch
from torch import Tensor

from acestep.lora.low_rank import LowRank, above_rounding, decompose
from acestep.lora.merge.ties import ties


def core_space(b: Tensor, a: Tensor, weights: Tensor, *, density: float = 0.2, scale: float = 1.0) -> LowRank:
    """b: (adapters, out, rank), a: (adapters, rank, in), padded with zeros; weights: (adapters,)

    density, scale: TIES'. Costs a few thin SVDs.
    """
    changes = [decompose(up, down) for up, down in zip(b, a, strict=True)]
    ups = torch.cat([change.left * change.values.sqrt() for change in changes], dim=1)
    downs = torch.cat([change.values.sqrt()[:, None] * change.right for change in changes])
    u, ups_values, _ = torch.linalg.svd(ups, full_matrices=False)
    _, downs_values, v = torch.linalg.svd(downs, full_matrices=False)
    # Directions of no length, where adapters share some, would count in the density.
    left, right = u[:, : above_rounding(ups_values)], v[: above_rounding(downs_values)]
    cores = torch.stack([(left.T @ c.left * c.values) @ (c.right @ right.T) for c in changes])
    merged = ties(cores, weights, density=density, scale=scale)
    return decompose(left, merged @ right)
