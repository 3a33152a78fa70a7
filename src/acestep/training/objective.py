"""What training minimises: v1's loss on noisy latents, with every random number given by what it is for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from acestep.datasets.seeding import derived_generator
from acestep.diffusion.alignment import mean_alignment_losses
from acestep.diffusion.flow_matching import add_noise, clean_estimate, clean_loss, logit_normal_sigmas, uniform_sigmas
from acestep.diffusion.schedules import training_sigmas
from acestep.families.base import Conditioning, TrainingNoise, drop_conditioning
from acestep.training.config import TimestepDistribution

VelocityModel = Callable[[Tensor, Tensor, Conditioning], Tensor]
AlignedModel = Callable[[Tensor, Tensor, Conditioning], tuple[Tensor, tuple[Tensor, ...]]]


@dataclass(frozen=True)
class Draws:
    """Random numbers of a batch. noise: as the latents; sigmas: (batch,); drops: (batch, 3) bool, for the text, the
    speaker and the lyrics."""

    noise: Tensor
    sigmas: Tensor
    drops: Tensor


def draw(
    seed: int,
    epoch: int,
    indices: Sequence[int],
    shape: Sequence[int],
    noise: TrainingNoise,
    *,
    distribution: TimestepDistribution = "logit_normal",
) -> Draws:
    """One set of numbers an example, (seed, epoch, index) alone deciding: batches of any size give the same ones.

    shape: of one example's latents. Drawn on the CPU, so every device trains on the same noise.
    """
    chances = torch.tensor([noise.text_dropout, noise.speaker_dropout, noise.lyric_dropout])
    normals, drops, noises = [], [], []
    for index in indices:
        generator = derived_generator(seed, "noise", epoch, index)
        normals.append(torch.randn((), generator=generator))
        drops.append(torch.rand(3, generator=generator) < chances)
        noises.append(torch.randn(tuple(shape), generator=generator))
    to_sigmas = {"logit_normal": logit_normal_sigmas, "uniform": uniform_sigmas}[distribution]
    sigmas = to_sigmas(torch.stack(normals), training_sigmas(shift=noise.shift))
    return Draws(torch.stack(noises), sigmas, torch.stack(drops))


def denoising_losses(
    velocity: VelocityModel, clean: Tensor, noise: Tensor, sigmas: Tensor, conditioning: Conditioning
) -> Tensor:
    """v1's loss, one value an example: the squared error of the clean latents that the velocity implies.

    clean, noise: (batch, 8, 16, frames) float32; sigmas: (batch,) in [0, 1] -> (batch,) float32
    """
    noisy = add_noise(clean, noise, sigmas)
    predicted = velocity(noisy, sigmas, conditioning)
    return clean_loss(clean_estimate(noisy, predicted.float(), sigmas), clean)


def losses_under(velocity: VelocityModel, clean: Tensor, conditioning: Conditioning, draws: Draws) -> Tensor:
    """`denoising_losses` with the noise, levels and dropped conditioning that `draws` say."""
    device = clean.device
    text, speaker, lyrics = draws.drops.to(device).unbind(1)
    kept = drop_conditioning(conditioning, text=text, speaker=speaker, lyrics=lyrics)
    return denoising_losses(velocity, clean, draws.noise.to(device), draws.sigmas.to(device), kept)


def losses_with_alignment(
    model: AlignedModel,
    clean: Tensor,
    conditioning: Conditioning,
    draws: Draws,
    targets: Sequence[Sequence[Tensor]],
) -> tuple[Tensor, Tensor]:
    """`losses_under`, and beside them how far the network's middle states are from what encoders hear (see
    diffusion/alignment.py): (batch,) each. targets: for each encoder one (states, width) an example."""
    predictions: tuple[Tensor, ...] = ()

    def velocity(latents: Tensor, sigmas: Tensor, kept: Conditioning) -> Tensor:
        nonlocal predictions
        predicted, predictions = model(latents, sigmas, kept)
        return predicted

    losses = losses_under(velocity, clean, conditioning, draws)
    heard = [[states.to(clean.device) for states in encoder] for encoder in targets]
    return losses, mean_alignment_losses(predictions, heard)
