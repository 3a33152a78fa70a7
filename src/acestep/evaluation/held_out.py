"""Held-out denoising loss: how well a model predicts recordings that training never saw, with and without an adapter.

Both are given the same clips, noise and levels, so what differs is the adapter alone. The figure is the training loss
itself: levels stand at even quantiles of the levels that training draws, and their mean estimates its expectation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acestep.datasets.seeding import derived_generator
from acestep.diffusion.flow_matching import logit_normal_sigmas
from acestep.diffusion.schedules import training_sigmas
from acestep.errors import InputError
from acestep.evaluation.uncertainty import Estimate, paired_change
from acestep.families.base import Conditioning, Family
from acestep.training.objective import denoising_losses

Floats = NDArray[np.float64]

LEVELS = 8


@dataclass(frozen=True)
class HeldOutClip:
    """A passage of a recording that was not trained on.

    recording: its name, clips of one recording count as one observation; latents: (8, 16, frames); conditioning: of one
    song.
    """

    recording: str
    latents: Tensor
    conditioning: Conditioning


@dataclass(frozen=True)
class LossComparison:
    """Held-out loss of the base and with the adapter, and the paired change over recordings.

    by_level: (level, base, adapted, change) a noise level, from noisy to clean.
    """

    base: float
    adapted: float
    change: Estimate
    by_level: tuple[tuple[float, float, float, Estimate], ...]


def training_levels(family: Family, count: int = LEVELS) -> Tensor:
    """Noise levels at even quantiles of the family's training distribution, highest first -> (count,) float32."""
    quantiles = [NormalDist().inv_cdf((index + 0.5) / count) for index in range(count)]
    return logit_normal_sigmas(torch.tensor(quantiles), training_sigmas(shift=family.noise.shift))


@torch.no_grad()
def clip_losses(
    family: Family,
    clips: Sequence[HeldOutClip],
    sigmas: Tensor,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Floats:
    """The training loss of each clip at each level -> (clips, levels) float64.

    sigmas: (levels,); noise is drawn from (seed, place of the clip) on the CPU, so two calls with one seed meet the
    same noise. `progress` hears (clips done, clips).
    """
    if not clips:
        raise InputError("there are no held-out recordings to measure on; keep some out of the training")
    device = family.device
    losses = np.empty((len(clips), len(sigmas)))
    for index, clip in enumerate(clips):
        clean = clip.latents.expand(len(sigmas), -1, -1, -1).to(device)
        noise = torch.randn(clean.shape, generator=derived_generator(seed, "held-out clip", index)).to(device)
        conditioning = Conditioning.stack([clip.conditioning] * len(sigmas)).to(device)
        values = denoising_losses(family.velocity, clean, noise, sigmas.to(device), conditioning)
        losses[index] = values.double().cpu().numpy()
        if progress is not None:
            progress(index + 1, len(clips))
    return losses


def compare_losses(base: Floats, adapted: Floats, sigmas: Tensor, clips: Sequence[HeldOutClip]) -> LossComparison:
    """Pair two results of `clip_losses` on the same clips. base, adapted: (clips, levels)"""
    recordings = [clip.recording for clip in clips]
    return LossComparison(
        base=float(base.mean()),
        adapted=float(adapted.mean()),
        change=paired_change(base.mean(1), adapted.mean(1), recordings),
        by_level=tuple(
            (
                float(sigma),
                float(base[:, level].mean()),
                float(adapted[:, level].mean()),
                paired_change(base[:, level], adapted[:, level], recordings),
            )
            for level, sigma in enumerate(sigmas.tolist())
        ),
    )
