"""Held-out loss: the same windows, noise and levels all through a run, so that a small change means something."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist, mean, stdev

import torch
from torch import Tensor

from acestep.datasets.latent_dataset import CachedTrack, LatentDataset
from acestep.datasets.seeding import derived_generator
from acestep.diffusion.flow_matching import logit_normal_sigmas
from acestep.diffusion.schedules import training_sigmas
from acestep.families.base import Conditioning, Family
from acestep.training.objective import denoising_losses

LEVELS = 4


@dataclass(frozen=True)
class HeldOutLoss:
    """Mean over tracks, by track, and the standard error of the mean; None for a single track."""

    mean: float
    standard_error: float | None
    by_track: dict[str, float]


@torch.no_grad()
def held_out_loss(family: Family, dataset: LatentDataset, *, seed: int) -> HeldOutLoss:
    """The training loss of each track at `LEVELS` even quantiles of the levels that training draws.

    Nothing is dropped from the conditioning. Noise depends on the seed and the recording's content alone.
    """
    losses = {}
    for index, track in enumerate(dataset.tracks):
        example = dataset.at_epoch(0)[index]
        clean = example.latents.expand(LEVELS, -1, -1, -1).to(family.device)
        noise = _noise(seed, track, clean)
        conditioning = Conditioning.stack([example.conditioning] * LEVELS).to(family.device)
        values = denoising_losses(family.velocity, clean, noise, _levels(family).to(family.device), conditioning)
        losses[track.name] = float(values.mean())
    values_by_track = list(losses.values())
    error = stdev(values_by_track) / math.sqrt(len(values_by_track)) if len(values_by_track) > 1 else None
    return HeldOutLoss(mean(values_by_track), error, losses)


def _levels(family: Family) -> Tensor:
    quantiles = [NormalDist().inv_cdf((index + 0.5) / LEVELS) for index in range(LEVELS)]
    return logit_normal_sigmas(torch.tensor(quantiles), training_sigmas(shift=family.noise.shift))


def _noise(seed: int, track: CachedTrack, clean: Tensor) -> Tensor:
    generator = derived_generator(seed, "held out", track.content)
    return torch.randn(clean.shape, generator=generator).to(clean.device)
