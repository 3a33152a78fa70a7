"""What training minimises: v1's loss on noisy latents, with every random number given by what it is for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from acestep.datasets.seeding import derived_generator
from acestep.diffusion.flow_matching import add_noise, clean_estimate, clean_loss, logit_normal_sigmas
from acestep.diffusion.schedules import training_sigmas
from acestep.families.base import Conditioning, TrainingNoise, drop_conditioning

VelocityModel = Callable[[Tensor, Tensor, Conditioning], Tensor]


@dataclass(frozen=True)
class Draws:
    """Random numbers of a batch. noise: as the latents; normals: (batch,); drops: (batch, 3) bool, for the text, the
    speaker and the lyrics."""

    noise: Tensor
    normals: Tensor
    drops: Tensor


def draw(seed: int, epoch: int, indices: Sequence[int], shape: Sequence[int], rates: TrainingNoise) -> Draws:
    """One set of numbers an example, (seed, epoch, index) alone deciding: batches of any size give the same ones.

    shape: of one example's latents. Drawn on the CPU, so every device trains on the same noise.
    """
    chances = torch.tensor([rates.text_dropout, rates.speaker_dropout, rates.lyric_dropout])
    noise, normals, drops = [], [], []
    for index in indices:
        generator = derived_generator(seed, "noise", epoch, index)
        normals.append(torch.randn((), generator=generator))
        drops.append(torch.rand(3, generator=generator) < chances)
        noise.append(torch.randn(tuple(shape), generator=generator))
    return Draws(torch.stack(noise), torch.stack(normals), torch.stack(drops))


def denoising_losses(
    velocity: VelocityModel, clean: Tensor, noise: Tensor, sigmas: Tensor, conditioning: Conditioning
) -> Tensor:
    """v1's loss, one value an example: the squared error of the clean latents that the velocity implies.

    clean, noise: (batch, 8, 16, frames) float32; sigmas: (batch,) in [0, 1] -> (batch,) float32
    """
    noisy = add_noise(clean, noise, sigmas)
    predicted = velocity(noisy, sigmas, conditioning)
    return clean_loss(clean_estimate(noisy, predicted.float(), sigmas), clean)


def losses_under(
    velocity: VelocityModel, clean: Tensor, conditioning: Conditioning, draws: Draws, rates: TrainingNoise
) -> Tensor:
    """`denoising_losses` with the noise, levels and dropped conditioning that `draws` say."""
    device = clean.device
    text, speaker, lyrics = draws.drops.to(device).unbind(1)
    kept = drop_conditioning(conditioning, text=text, speaker=speaker, lyrics=lyrics)
    sigmas = logit_normal_sigmas(draws.normals, training_sigmas(shift=rates.shift)).to(device)
    return denoising_losses(velocity, clean, draws.noise.to(device), sigmas, kept)
