"""Flow edit: change the prompt or lyrics of an existing song by the difference of two velocities.

Kulikov et al. 2024, arXiv:2412.08629.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from acestep.diffusion.samplers import Denoiser, OnStep, move


def sample_edit(
    source_denoise: Denoiser,
    target_denoise: Denoiser,
    remix_denoise: Denoiser,
    source: Tensor,
    sigmas: Tensor,
    *,
    draw_noise: Callable[[], Tensor],
    n_min: float = 0.0,
    n_max: float = 1.0,
    n_avg: int = 1,
    on_step: OnStep | None = None,
) -> Tensor:
    """Edit between the fractions n_min and n_max of the steps; after n_max the target alone is sampled to the end.

    source: (batch, 8, 16, frames); sigmas: (steps + 1,); each edited step averages `n_avg` fresh noises. Steps before
    n_min keep the source.
    """
    levels = sigmas.tolist()
    steps = len(levels) - 1
    first, last = int(n_min * steps), int(n_max * steps)
    edited, latents = source, None
    for index in range(first, steps):
        level, following = levels[index], levels[index + 1]
        if index < last:
            change = torch.zeros_like(edited)
            for _ in range(n_avg):
                noisy_source = (1 - level) * source + level * draw_noise()
                noisy_target = edited + noisy_source - source
                change += target_denoise(noisy_target, level) - source_denoise(noisy_source, level)
            edited = edited + (following - level) * change / n_avg
        else:
            if latents is None:
                latents = edited + ((1 - level) * source + level * draw_noise()) - source
            latents = move(latents, remix_denoise(latents, level), following - level)
        if on_step is not None:
            on_step(index, edited if latents is None else latents)
    return edited if latents is None else latents
