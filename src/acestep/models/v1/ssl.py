"""The semantic side loss of v1 training: mid-network states should predict what music and speech encoders hear."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def ssl_alignment_loss(predictions: Tensor, targets: Sequence[Tensor]) -> Tensor:
    """One head's loss: 1 - cosine, averaged over an item's target frames, then over the batch.

    predictions: (batch, frames, dim), at the latent rate; targets: one (target_frames, dim) an item, each with its own
    length -> scalar. Predictions are stretched linearly to each target's length.
    """
    losses = []
    for prediction, target in zip(predictions, targets, strict=True):
        stretched = F.interpolate(prediction.T.unsqueeze(0), size=target.shape[0], mode="linear", align_corners=False)
        losses.append(1 - F.cosine_similarity(stretched[0].T, target.to(stretched), dim=-1).mean())
    return torch.stack(losses).mean()
