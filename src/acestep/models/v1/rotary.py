"""The rotary position embedding of v1, which is not quite a rotation.

The angles are laid out in two halves while the partners are neighbours, so the two members of a pair turn at
different speeds. The released weights were trained with this, and it must stay.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

RotaryTables = tuple[Tensor, Tensor]
"""Cosines and sines, each (length, head_dim) float32."""


@lru_cache(maxsize=32)
def rotary_tables(length: int, head_dim: int, theta: float, device: torch.device) -> RotaryTables:
    """Cosines and sines of the angles position * theta^(-2j / head_dim), the list of j written twice in a row.

    Kept for the 32 last used lengths: a song asks for the same two tables at every step and block.
    """
    # A table made under inference_mode could never take part in a backward pass, so none is.
    with torch.inference_mode(False), torch.no_grad():
        exponents = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim
        angles = torch.outer(torch.arange(length, device=device, dtype=torch.float32), theta**-exponents)
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos(), angles.sin()


def apply_rotary(x: Tensor, tables: RotaryTables) -> Tensor:
    """x * cos + partner * sin, where partner[2i] = -x[2i + 1] and partner[2i + 1] = x[2i].

    x: (..., length, head_dim) -> same shape, float32 or wider
    """
    cos, sin = tables
    partner = torch.stack([-x[..., 1::2], x[..., 0::2]], dim=-1).flatten(-2)
    return x * cos + partner * sin
