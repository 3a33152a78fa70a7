"""An adapter for nano of a few modules of every sort and of different ranks, built in the test."""

from __future__ import annotations

import torch

from acestep.lora import Adapter, AdapterMetadata, Factors, TrainedWith
from acestep.lora.bases import base_shapes

BLOCK = "transformer_blocks.0"
MODULES = (f"{BLOCK}.attn.to_q", f"{BLOCK}.cross_attn.to_out.0", f"{BLOCK}.ff.inverted_conv.conv", "speaker_embedder")


def nano_adapter(*, dora: bool = False, dtype: torch.dtype = torch.float32, seed: int = 1) -> Adapter:
    """Ranks 2 to 5, the factors exact in `dtype`."""
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for rank, module in enumerate(MODULES, start=2):
        out, into, *kernel = base_shapes("nano")[module]
        a = torch.randn(rank, into, *kernel, generator=generator).to(dtype).float()
        b = torch.randn(out, rank, *kernel, generator=generator).to(dtype).float()
        factors[module] = Factors(a, b, torch.rand(out, generator=generator) if dora else None)
    return Adapter(factors, AdapterMetadata(trained=TrainedWith(rank=2, alpha=4.0), family="nano", base_model="nano"))
