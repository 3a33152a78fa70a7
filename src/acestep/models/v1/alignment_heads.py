"""The heads of v1's representation-alignment losses: from states in the middle of the transformer to what encoders of
music and speech hear. They are 89 million of the released numbers, and only training with these losses reads them.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from acestep.models.v1.config import TransformerConfig


class AlignmentHeads(nn.Module):
    """One projector an encoder, under the checkpoint's names."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.depths = config.ssl_encoder_depths
        self.projectors = alignment_projectors(config)

    def forward(self, states: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """states: (batch, frames, width) after each of the blocks in `depths` -> (batch, frames, dim) a head"""
        return tuple(head(state) for head, state in zip(self.projectors, states, strict=True))


def alignment_projectors(config: TransformerConfig) -> nn.ModuleList:
    """Three linear layers a head, twice as wide as the transformer."""
    width, hidden = config.width, 2 * config.width
    return nn.ModuleList(
        nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, dim))
        for dim in config.ssl_latent_dims
    )


def alignment_names(config: TransformerConfig) -> list[str]:
    """The names that the heads' tensors have in a checkpoint."""
    heads = range(len(config.ssl_latent_dims))
    return [f"projectors.{head}.{layer}.{kind}" for head in heads for layer in (0, 2, 4) for kind in ("weight", "bias")]
