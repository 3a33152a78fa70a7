"""TSV-Merge (Gargiulo et al. 2024, arXiv:2412.00081): the adapters' singular vectors are made orthogonal to each other.

Where two changes use the same directions, their sum is too strong there; whitened, each keeps directions of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from acestep.errors import InputError
from acestep.lora.low_rank import LowRank, decompose

# Directions that two adapters share to the last digit have no second one to become.
_SAME = 1e-6


def tsv(b: Tensor, a: Tensor, weights: Tensor, *, kept: float = 1.0) -> LowRank:
    """b: (adapters, out, rank), a: (adapters, rank, in), padded with zeros; weights: (adapters,), times singular values

    kept: the share of each adapter's singular values to go on with. The paper keeps one part in as many as there are
    models, so that all fit into the weight; low ranks fit as they are.
    """
    if not 0 < kept <= 1:
        raise InputError(f"kept is {kept:g}; give the share of singular values to keep, above 0 and up to 1")
    changes = [decompose(up, down) for up, down in zip(b, a, strict=True)]
    changes = [change.cut(max(1, round(kept * change.rank))) for change in changes]
    values = torch.cat([weight * change.values for weight, change in zip(weights, changes, strict=True)])
    left = whitened(torch.cat([change.left for change in changes], dim=1))
    right = whitened(torch.cat([change.right.T for change in changes], dim=1))
    return decompose(left * values, right.T)


def whitened(vectors: Tensor) -> Tensor:
    """The orthonormal columns nearest to these (Procrustes): P Q' where vectors = P D Q'. (size, count) -> as vectors

    Directions that occur only once among equal columns are shared by them, and no arbitrary one is made up: where
    columns repeat each other the result is a partial isometry.
    """
    p, values, q = torch.linalg.svd(vectors, full_matrices=False)
    there = values > _SAME * values[:1]
    orthonormal: Tensor = p[:, there] @ q[there]
    return orthonormal
