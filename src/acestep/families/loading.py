"""From a name to a base model in memory."""

from __future__ import annotations

from pathlib import Path

import torch

from acestep.families.base import Family
from acestep.families.hub import find_checkpoint
from acestep.families.v1 import V1Family
from acestep.models.quantization import Quantization


def load_family(
    name_or_path: str | Path,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    quantization: Quantization | None = None,
) -> Family:
    """Load "nano", a checkpoint folder or a hub id, frozen and in eval mode.

    device: None takes the first GPU where there is one. dtype: None takes bfloat16 on a GPU and float32 on the CPU.
    quantization: of the network's blocks (models/quantization.py); None keeps their weights in `dtype`.
    """
    folder = find_checkpoint(name_or_path)
    chosen = torch.device(device) if device is not None else default_device()
    return V1Family.load(folder, device=chosen, dtype=dtype or default_dtype(chosen), quantization=quantization)


def default_device() -> torch.device:
    """The first CUDA device, else Apple's, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def default_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where a GPU computes in it, float32 elsewhere: equal numbers on every CPU."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32
