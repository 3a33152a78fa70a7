"""Adapters with a known effect: random ones of a given size, and ones of zeros."""

from __future__ import annotations

import torch
from torch import nn

from acestep.lora import Adapter, AdapterMetadata, Factors, module_shapes


def random_adapter(
    network: nn.Module, *, size: float, rank: int = 2, seed: int = 0, metadata: AdapterMetadata | None = None
) -> Adapter:
    """On every module of the network's blocks, each delta of norm `size`."""
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for module, (out, *into) in module_shapes(network).items():
        if module.startswith("transformer_blocks."):
            a = torch.randn(rank, *into, generator=generator)
            b = torch.randn(out, rank, *(1 for _ in into[1:]), generator=generator)
            made = Factors(a, b)
            factors[module] = made.scaled(size / made.product_norm()) if size else Factors(a, torch.zeros_like(b))
    return Adapter(factors, metadata or AdapterMetadata())
