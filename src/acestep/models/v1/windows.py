"""Long spectrograms through local networks piece by piece: memory stays bounded, the result is that of one pass."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor


def in_windows(
    network: Callable[[Tensor], Tensor], x: Tensor, *, window: int, halo: int, scale: Fraction | int = 1
) -> Tensor:
    """What `network(x)` gives, computed for `window` positions of the last axis at a time.

    halo: positions to each side that an output can depend on; each window is given these and its part is cut out, so
    the network's own padding acts at the true ends alone. scale: outputs a position; window and halo are rounded up to
    whole numbers of outputs. A network that looks at all positions at once (attention, group norm) cannot be cut.
    """
    whole = Fraction(scale).denominator
    window, halo = (-(-size // whole) * whole for size in (window, halo))
    length = x.shape[-1]
    if length <= window:
        return network(x)
    parts = []
    for start in range(0, length, window):
        stop, first = min(start + window, length), max(start - halo, 0)
        result = network(x[..., first : stop + halo])
        parts.append(result[..., int((start - first) * scale) : int((stop - first) * scale)])
    return torch.cat(parts, dim=-1)
