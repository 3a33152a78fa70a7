"""Samplers: from noise to clean latents by following a velocity; pure functions of any denoiser.

Latents are (batch, 8, 16, frames) float32; a denoiser takes latents and one sigma and returns the velocity, noise
minus clean.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, float], Tensor]
OnStep = Callable[[int, Tensor], None]


def omega_weight(omega_scale: float) -> float:
    """Logistic map of the released `omega_scale` to a factor in (0.9, 1.1); 0 gives 1."""
    return 0.9 + 0.2 / (1 + math.exp(-0.1 * omega_scale))


def move(latents: Tensor, velocity: Tensor, step: float, *, weight: float = 1.0) -> Tensor:
    """One Euler move of size `step`, its deviation from the mean scaled by `weight`.

    The mean is over the whole tensor, batch included, as released; a song of a batch is therefore not bit for bit the
    song alone.
    """
    change = step * velocity
    if weight == 1.0:
        return latents + change
    mean = change.mean()
    return latents + (change - mean) * weight + mean


def sample_euler(
    denoise: Denoiser, noise: Tensor, sigmas: Tensor, *, omega_scale: float = 10.0, on_step: OnStep | None = None
) -> Tensor:
    """First order. noise: latents at sigmas[0]; sigmas: (steps + 1,) -> latents at sigmas[-1], of noise's shape."""
    latents, weight = noise, omega_weight(omega_scale)
    levels = sigmas.tolist()
    for index, (level, following) in enumerate(pairwise(levels)):
        latents = move(latents, denoise(latents, level), following - level, weight=weight)
        if on_step is not None:
            on_step(index, latents)
    return latents


def sample_heun(
    denoise: Denoiser, noise: Tensor, sigmas: Tensor, *, omega_scale: float = 10.0, on_step: OnStep | None = None
) -> Tensor:
    """Second order (Heun's method).

    The last step, which ends at 0, is first order. 2 * steps - 1 calls of the model.
    """
    latents, weight = noise, omega_weight(omega_scale)
    levels = sigmas.tolist()
    for index, (level, following) in enumerate(pairwise(levels)):
        velocity = denoise(latents, level)
        if index < len(levels) - 2:
            predicted = move(latents, velocity, following - level, weight=weight)
            velocity = (velocity + denoise(predicted, following)) / 2
        latents = move(latents, velocity, following - level, weight=weight)
        if on_step is not None:
            on_step(index, latents)
    return latents


def sample_pingpong(
    denoise: Denoiser,
    noise: Tensor,
    sigmas: Tensor,
    *,
    draw_noise: Callable[[], Tensor],
    on_step: OnStep | None = None,
) -> Tensor:
    """Denoise fully, then noise again to the next level; one fresh draw a step, the last included, as released."""
    latents = noise
    levels = sigmas.tolist()
    for index, (level, following) in enumerate(pairwise(levels)):
        clean = latents - level * denoise(latents, level)
        latents = (1 - following) * clean + following * draw_noise()
        if on_step is not None:
            on_step(index, latents)
    return latents


def mix_noise(first: Tensor, second: Tensor, variance: float) -> Tensor:
    """Rotate one noise towards another by `variance` in [0, 1]; the mix has unit variance again."""
    angle = torch.tensor(variance * math.pi / 2)
    return torch.cos(angle) * first + torch.sin(angle) * second
