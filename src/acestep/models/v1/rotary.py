"""The rotary position embedding of v1, which is not quite a rotation.

The angles are laid out in two halves while the partners are neighbours, so the two members of a pair turn at
different speeds. The released weights were trained with this, and it must stay.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def rotary_tables(
    length: int, head_dim: int, *, theta: float, device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the angles position * theta^(-2j / head_dim), the list of j written twice in a row.

    -> two (length, head_dim). Computed in float32, then cast to dtype.
    """
    # A table made under inference_mode could never take part in a backward pass, so none is.
    with torch.inference_mode(False), torch.no_grad():
        exponents = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim
        angles = torch.outer(torch.arange(length, device=device, dtype=torch.float32), theta**-exponents)
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos().to(dtype), angles.sin().to(dtype)


@lru_cache(maxsize=32)
def signed_rotary_tables(
    length: int, head_dim: int, theta: float, device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """The tables as `apply_rotary` wants them: the partner's minus sign is folded into the even sines.

    Kept for the 32 last used lengths: a song asks for the same two tables at every step and block.
    """
    cos, sin = rotary_tables(length, head_dim, theta=theta, device=device, dtype=dtype)
    with torch.inference_mode(False), torch.no_grad():
        sign = torch.ones(head_dim, device=device, dtype=dtype)
        sign[0::2] = -1
        return cos, sin * sign


def apply_rotary(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """x * cos + partner * sin, where partner[2i] = -x[2i + 1] and partner[2i + 1] = x[2i].

    x: (..., length, head_dim); tables: from `signed_rotary_tables` -> same shape, in the wider of the two dtypes
    """
    cos, signed_sin = tables
    neighbours = x.reshape(*x.shape[:-1], -1, 2).flip(-1).reshape(x.shape)
    return x * cos + neighbours * signed_sin
