"""Spherical interpolation of two changes (Shoemake 1985, "Animating rotation with quaternion curves").

The direction moves along the great circle between the two directions, the norm evenly from one norm to the other: an
average of two changes that have little in common is shorter than either, this is not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from acestep.errors import InputError

# Directions this near to equal or opposite have no great circle between them to speak of.
_PARALLEL = 1e-6


def slerp(weights: Tensor, gram: Tensor) -> Tensor:
    """What each of two changes is multiplied by. weights: (2,); gram: (2, 2), their inner products -> (2,)

    With weights (1 - t, t) after they are made to sum to one. Parallel changes, and one that is zero, are averaged.
    """
    if len(weights) != 2 or bool((weights < 0).any()) or float(weights.sum()) <= 0:
        raise InputError(f"slerp goes between two adapters of weights from 0 up, found {weights.tolist()}")
    shares = weights / weights.sum()
    norms = gram.diagonal().clamp(min=0).sqrt()
    if float(norms.min()) == 0:
        return shares
    angle = (gram[0, 1] / norms.prod()).clamp(-1, 1).acos()
    if min(float(angle), torch.pi - float(angle)) < _PARALLEL:
        return shares
    directions = (shares * angle).sin() / angle.sin()
    return directions * (shares * norms).sum() / norms
