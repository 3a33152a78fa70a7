"""Representation alignment: states in the middle of a network should tell what encoders of music and speech hear.

The idea is Yu et al. 2024 (arXiv:2410.06940); the form that of ACE-Step v1's training (arXiv:2506.00045).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def alignment_losses(predictions: Tensor, targets: Sequence[Tensor]) -> Tensor:
    """One head's loss, one value an example: 1 - cosine, averaged over the example's target frames.

    predictions: (batch, frames, width), at the latent rate; targets: one (target frames, width) an example, each with
    its own length -> (batch,) float32. Predictions are stretched linearly to each target's length.
    """
    losses = []
    for prediction, target in zip(predictions.float(), targets, strict=True):
        stretched = F.interpolate(prediction.T.unsqueeze(0), size=target.shape[0], mode="linear", align_corners=False)
        losses.append(1 - F.cosine_similarity(stretched[0].T, target.to(stretched), dim=-1).mean())
    return torch.stack(losses)


def mean_alignment_losses(predictions: Sequence[Tensor], targets: Sequence[Sequence[Tensor]]) -> Tensor:
    """The mean of several heads' `alignment_losses`, (batch,): v1 adds it to its loss with a weight of 1."""
    pairs = zip(predictions, targets, strict=True)
    return torch.stack([alignment_losses(prediction, target) for prediction, target in pairs]).mean(dim=0)
