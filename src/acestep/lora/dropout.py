"""Dropout whose numbers cost little on a CPU, where torch's own took a seventh of a training step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_LEVELS = 1 << 16


def drop_out(x: Tensor, chance: float) -> Tensor:
    """x with numbers set to 0 by that chance, and the others larger by as much as keeps the mean -> as x.

    Drawn from torch's global generator. On a CPU each number takes 16 random bits, so the chance is met to 1/65536 and
    a third of the time of `F.dropout` is needed; a GPU has one kernel for all of it.
    """
    dropped = round(chance * _LEVELS)
    if x.device.type != "cpu" or not 0 < dropped < _LEVELS:
        return F.dropout(x, chance)
    whole = torch.empty((x.numel() + 3) // 4, dtype=torch.int64, device=x.device).random_(-(1 << 63), None)
    levels = whole.view(torch.int16)[: x.numel()].view(x.shape)
    kept = (levels >= dropped - _LEVELS // 2).to(x.dtype)
    return x * kept.mul_(_LEVELS / (_LEVELS - dropped))
