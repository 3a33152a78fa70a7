"""The training objective of ACE-Step v1: noise levels, noisy latents and the loss.

As pure functions of explicit noise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from acestep.diffusion.schedules import TRAIN_STEPS


def logit_normal_sigmas(normals: Tensor, levels: Tensor) -> Tensor:
    """Training levels from standard normals (Esser et al. 2024, arXiv:2403.03206, section 3.1).

    normals: (batch,); levels: (1000,) from `training_sigmas`, highest first -> sigmas (batch,). The index counts from
    the noisy end, so
    a large normal gives a small sigma.
    """
    index = (torch.sigmoid(normals) * TRAIN_STEPS).floor().long().clamp(0, TRAIN_STEPS - 1)
    return levels.to(normals.device)[index]


def uniform_sigmas(normals: Tensor, levels: Tensor) -> Tensor:
    """Every training level equally often, from standard normals as `logit_normal_sigmas` takes them -> (batch,)."""
    index = (torch.special.ndtr(normals.double()) * TRAIN_STEPS).floor().long().clamp(0, TRAIN_STEPS - 1)
    return levels.to(normals.device)[index]


def add_noise(clean: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """Straight path between clean and noise (Liu et al. 2022, arXiv:2209.03003); sigmas: (batch,)."""
    level = sigmas.view(-1, 1, 1, 1)
    return level * noise + (1 - level) * clean


def clean_estimate(noisy: Tensor, velocity: Tensor, sigmas: Tensor) -> Tensor:
    """Where the predicted velocity says the clean latents are."""
    return noisy - sigmas.view(-1, 1, 1, 1) * velocity


def clean_loss(estimate: Tensor, clean: Tensor, frame_mask: Tensor | None = None) -> Tensor:
    """v1's loss, on the clean latents: the velocity's squared error times sigma squared -> (batch,).

    estimate, clean: (batch, 8, 16, frames); frame_mask: (batch, frames) of 0 and 1, the error is averaged over the
    frames that count.
    """
    error = (estimate - clean).square()
    if frame_mask is None:
        return error.flatten(1).mean(1)
    mask = frame_mask.to(error.dtype)
    per_frame = error.mean(dim=(1, 2))
    return (per_frame * mask).sum(1) / mask.sum(1).clamp(min=1)


def released_masked_loss(estimate: Tensor, clean: Tensor, frame_mask: Tensor) -> Tensor:
    """The released trainer's loss under a partial mask, which counts the masked share twice -> (batch,).

    Kept to compare with the released numbers; training uses `clean_loss`, equal to it under a full mask.
    """
    mask = frame_mask.view(frame_mask.shape[0], 1, 1, -1).to(estimate.dtype)
    return (mask * (estimate - clean)).square().flatten(1).mean(1) * frame_mask.mean(1)
