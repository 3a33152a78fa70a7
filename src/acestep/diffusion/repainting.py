"""Repaint and extend: replace a stretch of a song, or grow it at its ends, keeping the rest."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import pad

from acestep.diffusion.samplers import Denoiser, OnStep, mix_noise, move


@dataclass(frozen=True)
class RepaintPlan:
    """What is kept, what is made anew and from which noise; all (batch, 8, 16, frames), mask (1, 1, 1, frames)."""

    source: Tensor
    mask: Tensor
    noise: Tensor


def plan_repaint(source: Tensor, noise: Tensor, fresh: Tensor, *, start: int, end: int, variance: float) -> RepaintPlan:
    """Make frames [start, end) anew from `noise` turned towards `fresh` by `variance`; the rest keeps `source`."""
    mask = torch.zeros(source.shape[-1], device=source.device)
    mask[start:end] = 1
    mask = mask.view(1, 1, 1, -1)
    return RepaintPlan(source, mask, torch.where(mask == 1, mix_noise(noise, fresh, variance), noise))


def plan_extend(source: Tensor, noise: Tensor, fresh: Tensor, *, left: int, right: int) -> RepaintPlan:
    """Grow `source` by `left` and `right` frames.

    The new ends start from the ends of `fresh`, the middle from `noise`.
    """
    frames = source.shape[-1]
    grown = pad(source, (left, right))
    mask = torch.ones(frames + left + right, device=source.device)
    mask[left : left + frames] = 0
    pieces = [fresh[..., :left], noise, fresh[..., fresh.shape[-1] - right :]]
    return RepaintPlan(grown, mask.view(1, 1, 1, -1), torch.cat(pieces, dim=-1))


def sample_repaint(
    denoise: Denoiser, plan: RepaintPlan, sigmas: Tensor, *, skipped: int = 0, on_step: OnStep | None = None
) -> Tensor:
    """Euler from step `skipped` on, putting the kept frames back at each level (after Lugmayr et al. 2022,
    arXiv:2201.09865).

    No omega here, as released.
    """
    levels = sigmas.tolist()[skipped:]
    latents = _at_level(plan, levels[0])
    for index, (level, following) in enumerate(pairwise(levels), start=skipped):
        moved = move(latents, denoise(latents, level), following - level)
        latents = torch.where(plan.mask == 1, moved, _at_level(plan, following))
        if on_step is not None:
            on_step(index, latents)
    return latents


def _at_level(plan: RepaintPlan, level: float) -> Tensor:
    return (1 - level) * plan.source + level * plan.noise
