"""In what a step computes, whatever its weights are kept in."""

from __future__ import annotations

import torch

from acestep.training.config import Precision


def autocast_dtype(precision: Precision) -> torch.dtype | None:
    """What matrix products are computed in; None leaves them to the weights' own dtype."""
    return torch.bfloat16 if precision == "bf16" else None


def autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """torch's own, which does nothing where dtype is None."""
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)
