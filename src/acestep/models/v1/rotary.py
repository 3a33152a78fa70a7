"""The rotary position embedding of v1, which is not quite a rotation.

The angles are laid out in two halves while the partners are neighbours, so the two members of a pair turn at
different speeds. The released weights were trained with this, and it must stay.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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
    turned: Tensor = _Turn.apply(x, *tables)  # type: ignore[no-untyped-call]
    return turned


class _Turn(torch.autograd.Function):
    """Partners are read where they lie and not written out first, which halves the time, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.dtype = x.dtype
        out = x * cos
        out[..., 0::2].addcmul_(x[..., 1::2], sin[..., 0::2], value=-1)
        out[..., 1::2].addcmul_(x[..., 0::2], sin[..., 1::2])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        out = gradient * cos
        out[..., 0::2].addcmul_(gradient[..., 1::2], sin[..., 1::2])
        out[..., 1::2].addcmul_(gradient[..., 0::2], sin[..., 0::2], value=-1)
        return out.to(ctx.dtype), None, None
